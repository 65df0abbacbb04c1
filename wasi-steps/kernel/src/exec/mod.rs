//! `execve`: from a path to a new program.
//!
//! A [`Loader`] finds the file, follows `#!` lines to a program, maps it and its interpreter into a fresh address
//! space and builds the stack. Nothing of the caller changes until that has succeeded; then [`commit`](crate::task::exec)
//! ends the other threads and switches over, which cannot fail.

pub(crate) mod elf;
pub(crate) mod script;
pub(crate) mod stack;
pub(crate) mod wasm;

use std::sync::Arc;

use cooper_vfs::{
    AccessMode, Credentials as FilesystemCredentials, Errno, FileHandle, FileKind, Follow, OpenFlags, Opened,
    Position, Walk,
};
use cooper_x86::memory::PAGE_SIZE;
use cooper_x86::state::CpuState;

use crate::kernel::Kernel;
use crate::memory::area::{page_down, page_up};
use crate::memory::{AddressSpace, HIGHEST_ADDRESS, Layout, MapFlags, MapRequest, MapSource, Rights};
use crate::task::Credentials;
use crate::task::credentials::{FileCapabilities, SetIds};
use crate::wait::lock;
use elf::{Elf, ElfError, ElfKind, HEADER_SIZE, Header};
use stack::auxiliary;

/// How many interpreters of interpreters a script may have; then `ELOOP`.
const MAX_SCRIPT_DEPTH: usize = 4;
/// Longest single argument or variable (`MAX_ARG_STRLEN`).
pub(crate) const MAX_STRING: usize = 128 << 10;
/// Arguments and environment together never exceed this (three quarters of Linux's default `_STK_LIM`).
pub(crate) const MAX_STRINGS: u64 = 6 << 20;
/// Where position independent programs are put.
const PROGRAM_BASE: u64 = 0x5555_0000;
/// The top of the stack.
const STACK_TOP: u64 = HIGHEST_ADDRESS - PAGE_SIZE;
/// Bounds of the stack's size, whatever its limit says.
const STACK_SIZES: (u64, u64) = (256 << 10, 64 << 20);
/// Free space kept between the stack and the mappings below it.
const STACK_GAP: u64 = 1 << 20;
/// Features of CPUID leaf 1, `edx`, of the machine that guests see.
const HWCAP: u64 = 0x078b_fbff;
/// What a signal frame needs at most.
const SIGNAL_STACK: u64 = 2048;

/// What `execve` was asked for.
#[derive(Debug)]
pub(crate) struct ExecRequest<'a> {
    /// The program's place, resolved already.
    pub(crate) position: Position,
    /// The path as it was given, for scripts and `AT_EXECFN`.
    pub(crate) path: Vec<u8>,
    pub(crate) arguments: Vec<Vec<u8>>,
    pub(crate) environment: Vec<Vec<u8>>,
    /// Whose root directory, credentials and limits apply.
    pub(crate) walk: Walk<'a>,
    pub(crate) cwd: Position,
    pub(crate) credentials: &'a Credentials,
    pub(crate) no_new_privileges: bool,
    /// `RLIMIT_STACK`.
    pub(crate) stack_limit: u64,
}

/// A program that is ready to run.
#[derive(Debug)]
pub(crate) struct LoadedProgram {
    pub(crate) space: Arc<AddressSpace>,
    pub(crate) cpu: CpuState,
    pub(crate) credentials: Credentials,
    /// The file that runs: of a script, its interpreter.
    pub(crate) executable: Position,
    /// New name of the thread: the last part of the path.
    pub(crate) name: Vec<u8>,
    /// Whether the program has rights that the caller had not.
    pub(crate) secure: bool,
}

/// The file that is to be run, open.
struct Program {
    position: Position,
    handle: FileHandle,
}

/// A program or interpreter in memory.
struct MappedProgram {
    entry: u64,
    bias: u64,
    end: u64,
    headers: u64,
    count: usize,
}

/// Why there is no new program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoadError {
    /// The caller gets an error and goes on.
    Errno(Errno),
    /// What Linux finds out only after the old program is gone: the process ends with `SIGSEGV`.
    Fatal,
}

impl From<Errno> for LoadError {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// Checks what Linux checks before it looks at the arguments: that the file may be executed.
pub(crate) fn check_executable(walk: &Walk<'_>, position: &Position) -> Result<(), Errno> {
    if position.kind() != FileKind::File {
        return Err(Errno::ACCESS);
    }
    position.access(walk, AccessMode::EXECUTE)
}

/// Loads a program into a new address space.
///
/// `EACCES` for what is not an executable regular file; `ENOEXEC` for what is no program; `ELOOP` for scripts of
/// scripts of scripts; `E2BIG` for too long arguments; `ETXTBSY` when the file is being written; `ENOMEM`; and
/// what looking up an interpreter gives.
pub(crate) fn load(kernel: &Kernel, mut request: ExecRequest<'_>) -> Result<LoadedProgram, LoadError> {
    check_size(&request)?;
    let name = request.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
    let mut program = open_program(kernel, &request.walk, &request.position)?;
    let mut current = request.path.clone();
    let mut depth = 0;
    let elf = loop {
        let head = read_head(&program.handle)?;
        if head.starts_with(wasm::MAGIC) {
            return Ok(wasm::load(kernel, &request, program, &current, name)?);
        }
        if !head.starts_with(b"#!") {
            break parse_elf(kernel, &program.handle, &head, &current)?;
        }
        depth += 1;
        if depth > MAX_SCRIPT_DEPTH + 1 {
            return Err(Errno::LOOP.into());
        }
        program = follow_script(kernel, &mut request, &mut current, &head)?;
        check_size(&request)?;
    };
    let set = set_ids(&program.position, &request)?;
    let credentials = request.credentials.after_exec(set);
    let secure = credentials.is_secure() || (set != SetIds::default() && credentials.user.real != 0);
    let space = AddressSpace::new(kernel.memory())?;
    let denial = program.position.node().deny_write()?;
    space.keep_executable(denial);
    let stack_size = page_down(request.stack_limit.clamp(STACK_SIZES.0, STACK_SIZES.1));
    let stack_bottom = STACK_TOP - stack_size;
    space.set_mmap_top(stack_bottom - STACK_GAP);
    let main = map_program(&space, &program, &elf, Some(PROGRAM_BASE))?;
    let interpreter = match elf.interpreter {
        Some((offset, length)) => Some(load_interpreter(kernel, &request, &space, &program, offset, length)?),
        None => None,
    };
    space.set_heap_start(page_up(main.end).ok_or(Errno::NOMEM)?);
    let stack_request = MapRequest {
        flags: MapFlags::PRIVATE | MapFlags::ANONYMOUS | MapFlags::FIXED | MapFlags::STACK,
        ..MapRequest::zeros(stack_bottom, stack_size, Rights::READ | Rights::WRITE, "[stack]")
    };
    space.map(stack_request)?;
    let pointer =
        build_stack(kernel, &request, &space, &main, interpreter.as_ref(), &credentials, secure, stack_size)?;
    let entry = interpreter.map_or(main.entry, |interpreter| interpreter.entry);
    Ok(LoadedProgram {
        space: Arc::new(space),
        cpu: CpuState::at_entry(entry, pointer),
        credentials,
        executable: program.position,
        name,
        secure,
    })
}

/// `E2BIG` when arguments and environment are larger than a quarter of the stack, or than any stack.
fn check_size(request: &ExecRequest<'_>) -> Result<(), Errno> {
    let strings = request.arguments.iter().chain(&request.environment);
    let size: u64 = strings.map(|string| string.len() as u64 + 9).sum();
    let limit = (request.stack_limit / 4).clamp(128 << 10, MAX_STRINGS);
    if size > limit { Err(Errno::TOOBIG) } else { Ok(()) }
}

fn open_program(kernel: &Kernel, walk: &Walk<'_>, position: &Position) -> Result<Program, Errno> {
    check_executable(walk, position)?;
    // A program may be executed without being readable; the kernel reads it all the same.
    let root = FilesystemCredentials::root();
    let reader = Walk { credentials: &root, ..*walk };
    let opened = kernel.root_fs.open_position(&reader, position, OpenFlags::empty())?;
    match opened.opened {
        Opened::File(handle) => Ok(Program { position: position.clone(), handle }),
        _ => Err(Errno::ACCESS),
    }
}

/// The first bytes of a file, as many as there are up to the size of a script's line.
fn read_head(handle: &FileHandle) -> Result<Vec<u8>, Errno> {
    read_up_to(handle, 0, script::LINE_MAX)
}

fn read_up_to(handle: &FileHandle, offset: u64, length: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match handle.read_at(offset + filled as u64, &mut bytes[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn parse_elf(kernel: &Kernel, handle: &FileHandle, head: &[u8], path: &[u8]) -> Result<Elf, LoadError> {
    let parsed = Header::parse(head).and_then(|header| {
        let offset = header.program_headers;
        let size = header.table_size();
        let fits = offset.checked_add(size as u64).is_some_and(|end| end <= handle.size());
        if !fits || (offset as usize) < HEADER_SIZE {
            return Err(ElfError::Truncated);
        }
        let table = read_up_to(handle, offset, size).map_err(|_| ElfError::Truncated)?;
        Elf::parse(header, &table, handle.size())
    });
    parsed.map_err(|error| {
        if error != ElfError::NotElf {
            kernel.hint(format!("cannot execute `{}`: {error}", String::from_utf8_lossy(path)));
        }
        if error == ElfError::Unmappable { LoadError::Fatal } else { Errno::NOEXEC.into() }
    })
}

/// Puts a script's interpreter in front of the arguments and opens it.
fn follow_script(
    kernel: &Kernel,
    request: &mut ExecRequest<'_>,
    current: &mut Vec<u8>,
    head: &[u8],
) -> Result<Program, Errno> {
    let line = script::parse(head).ok_or(Errno::NOEXEC)?;
    let mut arguments = vec![line.interpreter.clone()];
    arguments.extend(line.argument);
    arguments.push(std::mem::replace(current, line.interpreter.clone()));
    arguments.extend(request.arguments.drain(..).skip(1));
    request.arguments = arguments;
    let position = kernel.root_fs.resolve(&request.walk, &request.cwd, &line.interpreter, Follow::Yes)?;
    open_program(kernel, &request.walk, &position)
}

/// The rights that the file gives, unless the caller has given up getting any.
fn set_ids(position: &Position, request: &ExecRequest<'_>) -> Result<SetIds, Errno> {
    if request.no_new_privileges {
        return Ok(SetIds::default());
    }
    let stat = position.stat(&request.walk)?;
    let uid = (stat.mode & 0o4000 != 0).then_some(stat.uid);
    let gid = (stat.mode & 0o2010 == 0o2010).then_some(stat.gid);
    let root = FilesystemCredentials::root();
    let reader = Walk { credentials: &root, ..request.walk };
    let attribute = position.get_xattr(&reader, b"security.capability").ok();
    let file_capabilities = attribute.and_then(|bytes| FileCapabilities::parse(&bytes));
    Ok(SetIds { uid, gid, file_capabilities })
}

fn load_interpreter(
    kernel: &Kernel,
    request: &ExecRequest<'_>,
    space: &AddressSpace,
    program: &Program,
    offset: u64,
    length: usize,
) -> Result<MappedProgram, Errno> {
    let path = read_up_to(&program.handle, offset, length)?;
    let (end, path) = path.split_last().ok_or(Errno::NOEXEC)?;
    if *end != 0 || path.contains(&0) {
        return Err(Errno::NOEXEC);
    }
    let position =
        kernel.root_fs.resolve(&request.walk, &request.cwd, path, Follow::Yes).inspect_err(|_| {
            let (program, path) = (String::from_utf8_lossy(&request.path), String::from_utf8_lossy(path));
            kernel.hint(format!("cannot execute `{program}`: its dynamic loader is missing: `{path}`"));
        })?;
    let interpreter = open_program(kernel, &request.walk, &position)?;
    let head = read_head(&interpreter.handle)?;
    // Linux: a bad interpreter is ELIBBAD, as the program itself is sound.
    let elf = parse_elf(kernel, &interpreter.handle, &head, path).map_err(|_| Errno::LIBBAD)?;
    map_program(space, &interpreter, &elf, None)
}

/// Maps the segments of a program; a relocatable one at `base`, or where there is room.
fn map_program(
    space: &AddressSpace,
    program: &Program,
    elf: &Elf,
    base: Option<u64>,
) -> Result<MappedProgram, Errno> {
    let (first, end) = elf.span();
    let low = page_down(first);
    let span = page_up(end).ok_or(Errno::NOEXEC)? - low;
    let bias = match (elf.header.kind, base) {
        (ElfKind::Fixed, _) => 0,
        (ElfKind::Relocatable, Some(base)) => (base & !(elf.alignment - 1)).wrapping_sub(low),
        (ElfKind::Relocatable, None) => reserve(space, span, elf.alignment)?.wrapping_sub(low),
    };
    for segment in &elf.segments {
        map_segment(space, program, segment, bias)?;
    }
    let headers = elf.program_headers_address.map_or(0, |address| address.wrapping_add(bias));
    Ok(MappedProgram {
        entry: elf.header.entry.wrapping_add(bias),
        bias,
        end: end.wrapping_add(bias),
        headers,
        count: elf.header.program_header_count,
    })
}

/// Finds room for `span` bytes at a multiple of `alignment`.
fn reserve(space: &AddressSpace, span: u64, alignment: u64) -> Result<u64, Errno> {
    let extra = alignment - PAGE_SIZE;
    let mut request = MapRequest::zeros(0, span + extra, Rights::empty(), "");
    request.flags = MapFlags::PRIVATE | MapFlags::ANONYMOUS | MapFlags::NORESERVE;
    let start = space.map(request)?;
    space.unmap(start, span + extra)?;
    Ok((start + extra) & !(alignment - 1))
}

fn map_segment(
    space: &AddressSpace,
    program: &Program,
    segment: &elf::Segment,
    bias: u64,
) -> Result<(), Errno> {
    let start = segment.address.wrapping_add(bias);
    let page = page_down(start);
    let file_end = start.checked_add(segment.file_size).ok_or(Errno::NOEXEC)?;
    let memory_end = start.checked_add(segment.memory_size).ok_or(Errno::NOEXEC)?;
    let mut zero_from = page;
    if segment.file_size > 0 {
        let source = MapSource::File(program.handle.clone(), Some(program.position.clone()));
        let mut request = MapRequest::zeros(page, file_end - page, segment.rights, "");
        request.flags = MapFlags::PRIVATE | MapFlags::FIXED;
        request.source = Some(source);
        request.offset = page_down(segment.offset);
        space.map(request)?;
        zero_from = page_up(file_end).ok_or(Errno::NOEXEC)?;
        let tail = zero_from.min(memory_end).saturating_sub(file_end);
        if tail > 0 && segment.rights.contains(Rights::WRITE) {
            space.memory.fill(file_end, 0, (zero_from - file_end) as usize).map_err(|_| Errno::FAULT)?;
        }
    }
    if memory_end > zero_from {
        space.map(MapRequest::zeros(zero_from, memory_end - zero_from, segment.rights, ""))?;
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "everything a new program is told, once")]
fn build_stack(
    kernel: &Kernel,
    request: &ExecRequest<'_>,
    space: &AddressSpace,
    main: &MappedProgram,
    interpreter: Option<&MappedProgram>,
    credentials: &Credentials,
    secure: bool,
    stack_size: u64,
) -> Result<u64, Errno> {
    let values = [
        (auxiliary::HWCAP, HWCAP),
        (auxiliary::PAGESZ, PAGE_SIZE),
        (auxiliary::CLKTCK, 100),
        (auxiliary::PHDR, main.headers),
        (auxiliary::PHENT, elf::PROGRAM_HEADER_SIZE as u64),
        (auxiliary::PHNUM, main.count as u64),
        (auxiliary::BASE, interpreter.map_or(0, |interpreter| interpreter.bias)),
        (auxiliary::FLAGS, 0),
        (auxiliary::ENTRY, main.entry),
        (auxiliary::UID, u64::from(credentials.user.real)),
        (auxiliary::EUID, u64::from(credentials.user.effective)),
        (auxiliary::GID, u64::from(credentials.group.real)),
        (auxiliary::EGID, u64::from(credentials.group.effective)),
        (auxiliary::SECURE, u64::from(secure)),
        (auxiliary::HWCAP2, 0),
        (auxiliary::MINSIGSTKSZ, SIGNAL_STACK),
    ];
    let mut random = [0; 16];
    kernel.random_bytes(&mut random)?;
    let contents = stack::StackContents {
        arguments: &request.arguments,
        environment: &request.environment,
        file_name: &request.path,
        random,
        auxiliary: &values,
    };
    let built = stack::build(&contents, STACK_TOP, stack_size / 4 * 3)?;
    space.write_bytes(built.pointer, &built.bytes)?;
    *lock(&space.layout) = Layout {
        arguments: built.argument_range,
        environment: built.environment_range,
        auxiliary: built.auxiliary_range,
        stack_start: built.pointer,
    };
    Ok(built.pointer)
}
