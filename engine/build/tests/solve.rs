//! Stages, variables, the cache, and what the images say, with steps that are played.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod common;

use common::{Bench, outcome};
use cooper_build::report::Finish;
use cooper_build::request::{CacheUse, ContextSource, NamedContext, Network};
use cooper_build::step::{
    Bytes, Exit, Limit, LimitHit, NetworkPolicy, Secret, StepMountSource, StepOutcome, StepUser, TreeRecord,
};
use cooper_image::image::ImageRecord;

fn history(image: &ImageRecord) -> Vec<String> {
    let line = |entry: &cooper_image::config::History| {
        let empty = if entry.empty_layer == Some(true) { " (empty)" } else { "" };
        format!("{}{empty}", entry.created_by.clone().unwrap_or_default())
    };
    image.config.history.iter().map(line).collect()
}

fn variables(bench: &Bench) -> Vec<String> {
    let environment = bench.last_request().environment;
    environment.iter().map(|(name, value)| format!("{}={}", name.to_text(), value.to_text())).collect()
}

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[test]
fn only_the_stages_that_the_target_needs_run() {
    let mut bench = Bench::new();
    let dockerfile = "FROM scratch AS a\nRUN touch /a\nFROM nowhere AS unused\nRUN fail 1\nFROM a AS b\nRUN touch /b\n\
                      FROM scratch\nCOPY --from=b /a /b /\n";
    let result = bench.build(dockerfile);
    assert_eq!(bench.list(&result.tree), "0644 0:0 a \"\"\n0644 0:0 b \"\"");
    assert_eq!(bench.steps(), 2);
    assert!(bench.table.resolved.lock().unwrap().is_empty());
    bench.request.target = Some("A".to_owned());
    assert_eq!(bench.build(dockerfile).image.layers.len(), 1);
    bench.request.target = Some("bb".to_owned());
    assert!(bench.failure(dockerfile).contains("no stage `bb`"));
}

#[test]
fn an_unchanged_build_executes_nothing_and_gives_the_same_image() {
    let mut bench = Bench::new();
    bench.file("f", "1", 0o644);
    let dockerfile = "FROM scratch\nCOPY f /\nRUN touch /x\nWORKDIR /w\nRUN touch /y\n";
    let first = bench.build(dockerfile);
    let second = bench.build(dockerfile);
    assert_eq!(bench.steps(), 2);
    assert_eq!(first.image.digest(), second.image.digest());
    // A new time alone is no change; new bytes are one, for everything after them.
    common::set_time(&bench.context().join("f"), 1_650_000_000);
    bench.build(dockerfile);
    assert_eq!(bench.steps(), 2);
    bench.file("f", "2", 0o644);
    bench.build(dockerfile);
    assert_eq!(bench.steps(), 4);
    bench.file("f", "2", 0o755);
    bench.build(dockerfile);
    assert_eq!(bench.steps(), 6);
    bench.request.cache = CacheUse::Nothing;
    bench.build(dockerfile);
    assert_eq!(bench.steps(), 8);
}

#[test]
fn a_result_that_did_not_change_stops_the_change() {
    let mut bench = Bench::new();
    bench.file("f", "1", 0o644).file("g", "1", 0o644);
    let dockerfile = "FROM scratch AS one\nCOPY f g /\nRUN touch /made\nFROM scratch\nCOPY --from=one /made /f /\nRUN touch /x\n";
    bench.build(dockerfile);
    bench.file("g", "2", 0o644);
    bench.build(dockerfile);
    // The step of the first stage runs again; what the second takes from it is the same.
    assert_eq!(bench.steps(), 3);
}

#[test]
fn every_part_of_a_step_is_in_its_key_and_nothing_else() {
    let mut bench = Bench::new();
    let mut check = |dockerfile: &str, runs: bool, change: &dyn Fn(&mut Bench)| {
        change(&mut bench);
        let before = bench.steps();
        bench.build(dockerfile);
        assert_eq!(bench.steps() > before, runs, "{dockerfile}");
    };
    let nothing = |_: &mut Bench| {};
    check("FROM scratch\nRUN noop\n", true, &nothing);
    check("FROM scratch\nLABEL a=b\nEXPOSE 1\nCMD x\nRUN noop\n", false, &nothing);
    check("FROM scratch AS other\nRUN noop\n", false, &nothing);
    check("FROM scratch\nENV A=1\nRUN noop\n", true, &nothing);
    check("FROM scratch\nENV A=2\nRUN noop\n", true, &nothing);
    check("FROM scratch\nUSER 5\nRUN noop\n", true, &nothing);
    check("FROM scratch\nWORKDIR /\nRUN [\"noop\"]\n", true, &nothing);
    check("FROM scratch\nSHELL [\"/bin/other\", \"-c\"]\nRUN noop\n", true, &nothing);
    check("FROM scratch\nRUN --network=none noop\n", true, &nothing);
    check("FROM scratch\nRUN --mount=type=tmpfs,target=/t noop\n", true, &nothing);
    check("FROM scratch\nARG A=1\nRUN noop\n", false, &nothing);
    check("FROM scratch\nRUN noop\n", false, &|bench| {
        bench.request.build_args.insert("HTTP_PROXY".to_owned(), "http://p".to_owned());
        bench.request.limits.memory_bytes = Some(1 << 30);
    });
    check("FROM scratch\nRUN noop\n", true, &|bench| {
        bench.request.extra_hosts.push(("db".to_owned(), [10, 0, 0, 1].into()));
    });
    check("FROM scratch\nRUN noop\n", true, &|bench| {
        bench.request.platform = "linux/arm64".parse().unwrap();
        bench.request.build_platform = "linux/arm64".parse().unwrap();
    });
}

#[test]
fn a_stage_may_be_left_out_of_the_cache() {
    let mut bench = Bench::new();
    let dockerfile = "FROM scratch AS a\nRUN touch /a\nFROM scratch\nRUN touch /b\nCOPY --from=a /a /\n";
    bench.build(dockerfile);
    bench.request.cache = CacheUse::Without(["A".to_owned()].into());
    bench.build(dockerfile);
    assert_eq!(bench.steps(), 3);
}

#[test]
fn variables_follow_buildkit() {
    let mut bench = Bench::new();
    bench.request.build_args.insert("Y".to_owned(), "yarg".to_owned());
    bench.request.build_args.insert("HTTP_PROXY".to_owned(), "http://127.0.0.1:9".to_owned());
    bench.request.build_args.insert("UNUSED".to_owned(), "1".to_owned());
    let base = "ARG G=global\nARG H\nFROM scratch AS base\nARG Z=z Y B=b\nARG G\nARG H\nENV Z=envz B=envb\nARG B=late\n";
    bench.build(&format!("{base}RUN one\n"));
    assert_eq!(
        variables(&bench),
        [
            PATH,
            "Z=envz",
            "Y=yarg",
            "B=late",
            "G=global",
            "HTTP_PROXY=http://127.0.0.1:9",
            "http_proxy=http://127.0.0.1:9",
            "HOME=/"
        ]
    );
    assert_eq!(
        *bench.notes.warnings.lock().unwrap(),
        ["warning: the build argument `UNUSED` is used by no ARG"]
    );
    let result =
        bench.build(&format!("{base}FROM base AS child\nARG TARGETARCH Y=childy\nRUN two $Y\nLABEL a=$Z\n"));
    assert!(variables(&bench).contains(&"B=envb".to_owned()));
    assert!(variables(&bench).contains(&"TARGETARCH=amd64".to_owned()));
    assert_eq!(
        history(&result.image),
        [
            "ARG Z=z Y=yarg B=b (empty)",
            "ARG G=global (empty)",
            "ARG H (empty)",
            "ENV Z=envz B=envb (empty)",
            "ARG B=late (empty)",
            "ARG TARGETARCH=amd64 Y=yarg (empty)",
            "RUN |6 Z=envz Y=yarg B=envb G=global H= TARGETARCH=amd64 /bin/sh -c two $Y # buildkit",
            "LABEL a=envz (empty)",
        ]
    );
    assert_eq!(result.image.config.config.env, [PATH, "Z=envz", "B=envb"]);
}

#[test]
fn the_config_says_what_the_instructions_say() {
    let mut bench = Bench::new();
    bench.request.labels.insert("la".to_owned(), "1".to_owned());
    let result = bench.build(
        "FROM scratch\nLABEL x=y \"multi word\"=\"a b\"\nEXPOSE 80 443/tcp 8000-8001 53/UDP\nVOLUME /v\nVOLUME [\"/b\", \"/c\"]\nCMD [\"a\"]\n\
         ENTRYPOINT [\"/e\"]\nSTOPSIGNAL SIGTERM\nHEALTHCHECK --interval=5s --retries=3 CMD curl x\n\
         SHELL [\"/bin/bash\",\"-c\"]\nUSER 12\nMAINTAINER me\nWORKDIR rel\nWORKDIR sub\nONBUILD RUN echo hi\nCMD x\n",
    );
    let config = serde_json::to_value(&result.image.config.config).unwrap();
    let expected = serde_json::json!({
        "User": "12",
        "ExposedPorts": {"443/tcp": {}, "53/udp": {}, "80/tcp": {}, "8000/tcp": {}, "8001/tcp": {}},
        "Env": [PATH],
        "Entrypoint": ["/e"],
        "Cmd": ["/bin/bash", "-c", "x"],
        "Volumes": {"/b": {}, "/c": {}, "/v": {}},
        "WorkingDir": "/rel/sub",
        "Labels": {"la": "1", "multi word": "a b", "x": "y"},
        "StopSignal": "SIGTERM",
        "ArgsEscaped": true,
        "Healthcheck": {"Test": ["CMD-SHELL", "curl x"], "Interval": 5_000_000_000_i64, "Retries": 3},
        "OnBuild": ["RUN echo hi"],
        "Shell": ["/bin/bash", "-c"],
    });
    assert_eq!(config, expected);
    assert_eq!(result.image.config.author.as_deref(), Some("me"));
    assert_eq!(bench.list(&result.tree), "0755 12:0 rel/\n0755 12:0 rel/sub/");
    let history = history(&result.image);
    assert_eq!(history[1], "EXPOSE [443/tcp 53/udp 80/tcp 8000/tcp 8001/tcp] (empty)");
    assert_eq!(history[7], r#"HEALTHCHECK &{["CMD-SHELL" "curl x"] "5s" "0s" "0s" "0s" '\x03'} (empty)"#);
    assert_eq!(history[11], "WORKDIR /rel");
    assert_eq!(history.len(), 14);
    assert_eq!(result.image.layers.len(), 2);
}

#[test]
fn an_entrypoint_resets_the_command_of_the_base() {
    let mut bench = Bench::new();
    bench.base("base", "FROM scratch\nCMD [\"c\"]\n");
    let cmd =
        |bench: &mut Bench, rest: &str| bench.build(&format!("FROM base\n{rest}")).image.config.config.cmd;
    assert_eq!(cmd(&mut bench, "LABEL a=b\n"), Some(vec!["c".to_owned()]));
    assert_eq!(cmd(&mut bench, "ENTRYPOINT [\"e\"]\n"), None);
    assert_eq!(cmd(&mut bench, "CMD [\"d\"]\nENTRYPOINT [\"e\"]\n"), Some(vec!["d".to_owned()]));
}

#[test]
fn images_keep_their_base_byte_for_byte() {
    let mut bench = Bench::new();
    bench.file("f", "1", 0o644);
    bench.base("base", "FROM scratch\nCOPY f /f\nENV A=1\nUSER 3\nWORKDIR /w\n");
    let result = bench.build("FROM base\nCOPY f g$A\nRUN noop\n");
    let base = bench.table.images.lock().unwrap()["base"].clone();
    assert_eq!(result.image.layers[..2], base.layers[..]);
    assert_eq!(result.image.config.history[..4], base.config.history[..]);
    assert_eq!(bench.list(&result.tree), "0644 0:0 f \"1\"\n0755 3:0 w/\n0644 0:0 w/g1 \"1\"");
    let request = bench.last_request();
    assert_eq!(request.user, StepUser { uid: 3, gid: 0, groups: vec![0] });
    assert_eq!(request.working_directory, "/w".into());
    // Nothing of a warm build looks at the base's file system.
    assert_eq!(result.image.digest(), bench.build("FROM base\nCOPY f g$A\nRUN noop\n").image.digest());
}

#[test]
fn triggers_of_the_base_run_first_and_are_not_inherited() {
    let mut bench = Bench::new();
    bench.file("f", "1", 0o644);
    bench.base("base", "FROM scratch\nONBUILD COPY f /triggered\nONBUILD ENV T=1\n");
    let result = bench.build("FROM base\nENV U=$T\n");
    assert_eq!(bench.list(&result.tree), "0644 0:0 triggered \"1\"");
    assert_eq!(result.image.config.config.env[1..], ["T=1", "U=1"]);
    assert!(result.image.config.config.on_build.is_empty());
}

#[test]
fn times_come_from_the_inputs_and_can_be_clamped() {
    let build = |epoch: Option<i64>| {
        let mut bench = Bench::new();
        bench.file("f", "1", 0o644).file("d/g", "2", 0o600).settle();
        bench.request.source_date_epoch = epoch;
        bench.build("FROM scratch\nCOPY f /a/b/\nCOPY d /d\nWORKDIR /w\nCOPY <<x /y\nz\nx\n").image
    };
    let first = build(None);
    assert_eq!(first.config.created.as_deref(), Some("2020-09-13T12:26:40Z"));
    assert_eq!(first.digest(), build(None).digest());
    let clamped = build(Some(1_000_000_000));
    assert_eq!(clamped.config.created.as_deref(), Some("2001-09-09T01:46:40Z"));
    assert_ne!(first.digest(), clamped.digest());
}

#[test]
fn a_failed_step_shows_its_place_code_and_last_lines() {
    let mut bench = Bench::new();
    let failure = bench.failure("FROM scratch\nRUN say one ; say two ; fail 3\nRUN noop\n");
    let expected = "\
error: `/bin/sh -c say one ; say two ; fail 3` did not succeed: exit code: 3
 --> Dockerfile:2:1
  |
2 | RUN say one ; say two ; fail 3
  | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^

last lines of the step's output:
    one
    two";
    assert_eq!(failure, expected);
    assert_eq!(bench.steps(), 1);
    // A failure is not remembered.
    bench.failure("FROM scratch\nRUN say one ; say two ; fail 3\nRUN noop\n");
    assert_eq!(bench.steps(), 2);
    let finished = bench.notes.finished.lock().unwrap();
    assert!(finished.iter().any(|(_, how)| *how == Finish::Failed));
}

#[test]
fn a_limit_and_a_missing_system_call_are_named() {
    let mut bench = Bench::new();
    let answer = |outcome: StepOutcome, bench: &Bench| *bench.player.answer.lock().unwrap() = Some(outcome);
    answer(StepOutcome { limit: Some(LimitHit { limit: Limit::Memory, value: 4096 }), ..outcome() }, &bench);
    let error = bench.try_build("FROM scratch\nRUN a\n").err().unwrap();
    assert_eq!(error.to_string(), "the step's limit on memory was reached: 4096 bytes");
    assert_eq!(error.fault().exit_code(), 6);
    let unimplemented = vec![("io_uring_setup".to_owned(), 2)];
    answer(StepOutcome { exit: Exit::Signal(11), unimplemented, ..outcome() }, &bench);
    let failure = bench.failure("FROM scratch\nRUN b\n");
    assert!(failure.contains("killed by signal: 11"), "{failure}");
    assert!(
        failure.ends_with("hint: the step asked for system calls that there are not yet: io_uring_setup (2)"),
        "{failure}"
    );
}

#[test]
fn a_cancelled_build_runs_nothing_more() {
    let mut bench = Bench::new();
    bench.cancel.cancel();
    let error = bench.try_build("FROM scratch\nRUN a\n").err().unwrap();
    assert_eq!(error.fault().exit_code(), 7);
    assert_eq!(bench.steps(), 0);
}

#[test]
fn mounts_reach_the_step_and_not_the_image() {
    let mut bench = Bench::new();
    bench.file("d/f", "1", 0o644);
    bench.request.secrets.insert("key".to_owned(), Secret::new(b"hush".to_vec()));
    bench.request.agents.insert("default".to_owned(), "/agent".into());
    let dockerfile = "FROM scratch AS other\nCOPY d /o\nFROM scratch\nWORKDIR /w\n\
        RUN --mount=type=bind,source=d,target=ctx --mount=from=other,target=/o,source=/o,rw --mount=type=tmpfs,target=/t,size=1k \
        --mount=type=secret,id=key,env=KEY --mount=type=secret,id=none --mount=type=secret,id=key,mode=0440,uid=5 \
        --mount=type=cache,target=/c,uid=7,mode=0700 --mount=type=ssh --mount=type=ssh,id=no,target=/no noop\n";
    let result = bench.build(dockerfile);
    assert_eq!(bench.list(&result.tree), "0755 0:0 w/");
    let mounts = bench.last_request().mounts;
    let shown: Vec<String> = mounts
        .iter()
        .map(|mount| {
            let what = match &mount.source {
                StepMountSource::Tree { path, .. } => format!("tree {}", path.to_text()),
                StepMountSource::Cache { id, .. } => format!("cache {id}"),
                StepMountSource::Tmpfs { size, .. } => format!("tmpfs {size:?}"),
                StepMountSource::File { mode, uid, .. } => format!("file {mode:o} {uid}"),
                StepMountSource::Socket { host, mode, .. } => format!("socket {} {mode:o}", host.to_text()),
            };
            format!("{} {what} {}", mount.target.to_text(), if mount.read_only { "ro" } else { "rw" })
        })
        .collect();
    assert_eq!(
        shown,
        [
            "/w/ctx tree /d ro",
            "/o tree /o rw",
            "/t tmpfs Some(1024) rw",
            "/run/secrets/key file 440 5 ro",
            "/c cache /c rw",
            "/run/buildkit/ssh_agent.0 socket /agent 600 rw",
        ]
    );
    assert!(variables(&bench).contains(&"KEY=hush".to_owned()));
    assert!(variables(&bench).contains(&"SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0".to_owned()));
    // Contents of bind mounts count, secrets do not.
    bench.request.secrets.insert("key".to_owned(), Secret::new(b"other".to_vec()));
    bench.build(dockerfile);
    assert_eq!(bench.steps(), 1);
    bench.file("d/f", "2", 0o644);
    bench.build(dockerfile);
    assert_eq!(bench.steps(), 2);
    let failure = bench.failure("FROM scratch\nRUN --mount=type=secret,id=absent,required noop\n");
    assert!(failure.contains("requires the secret `absent`"), "{failure}");
}

#[test]
fn a_cache_mount_keeps_what_the_step_left() {
    let mut bench = Bench::new();
    bench.file("f", "1", 0o644);
    let kept = bench.build("FROM scratch\nCOPY f /f\n").tree;
    let caches = [("/c".to_owned(), TreeRecord(Bytes(kept.encode())))].into();
    *bench.player.answer.lock().unwrap() = Some(StepOutcome { caches, ..outcome() });
    bench.build("FROM scratch\nRUN --mount=type=cache,target=/c one\n");
    bench.build("FROM scratch\nRUN --mount=type=cache,target=/c two\n");
    match &bench.last_request().mounts[0].source {
        StepMountSource::Cache { tree, .. } => assert_eq!(tree.0.0, kept.encode()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn heredoc_scripts_run_as_buildkit_runs_them() {
    let mut bench = Bench::new();
    let result = bench.build("FROM scratch\nRUN <<EOT\nnoop\nEOT\nRUN <<EOT\n#!/usr/bin/x\nbody\nEOT\n");
    let history = history(&result.image);
    assert_eq!(history, ["RUN /bin/sh -c noop\n # buildkit", "RUN /bin/sh -c /dev/pipes/EOT # buildkit"]);
    let request = bench.last_request();
    assert_eq!(request.mounts[0].target, "/dev/pipes/EOT".into());
    match &request.mounts[0].source {
        StepMountSource::File { contents, mode: 0o755, .. } => {
            assert_eq!(contents.expose(), b"#!/usr/bin/x\nbody\n");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn networks_are_the_requests_or_the_steps() {
    let mut bench = Bench::new();
    bench.build("FROM scratch\nRUN --network=none one\n");
    assert_eq!(bench.last_request().network, NetworkPolicy::None);
    bench.request.network = Network::None;
    bench.build("FROM scratch\nRUN two\n");
    assert_eq!(bench.last_request().network, NetworkPolicy::None);
    bench.build("FROM scratch\nRUN --network=default three\n");
    assert_eq!(bench.last_request().network, NetworkPolicy::Default { allow: vec![] });
}

#[test]
fn named_contexts_stand_before_stages_and_images() {
    let mut bench = Bench::new();
    bench.file("f", "1", 0o644);
    bench.base("real", "FROM scratch\nENV A=real\n");
    let directory = bench.context();
    bench
        .request
        .named_contexts
        .insert("here".to_owned(), NamedContext::Files(ContextSource::Directory(directory)));
    bench.request.named_contexts.insert("alpine".to_owned(), NamedContext::Image("real".to_owned()));
    let result = bench.build("FROM alpine\nCOPY --from=here f /x\n");
    assert_eq!(result.image.config.config.env[1], "A=real");
    assert_eq!(bench.list(&result.tree), "0644 0:0 x \"1\"");
    let result = bench.build("FROM here\nCOPY f /g\n");
    assert_eq!(bench.list(&result.tree), "0644 0:0 f \"1\"\n0644 0:0 g \"1\"");
    assert_eq!(result.image.layers.len(), 2);
    bench.request.named_contexts.insert("lib".to_owned(), NamedContext::Stage("one".to_owned()));
    let result = bench.build("FROM scratch AS one\nCOPY f /o\nFROM scratch\nCOPY --from=lib /o /\n");
    assert_eq!(bench.list(&result.tree), "0644 0:0 o \"1\"");
}

#[test]
fn triggers_may_name_stages_and_images() {
    let mut bench = Bench::new();
    bench.file("f", "1", 0o644);
    bench.base("tools", "FROM scratch\nCOPY f /tool\n");
    let parent = "FROM scratch\nONBUILD COPY --from=built /out /\nONBUILD COPY --from=tools /tool /\n\
                  ONBUILD RUN --mount=from=built,target=/b noop\n";
    bench.base("parent", parent);
    let result = bench.build("FROM scratch AS built\nRUN write /out made\nFROM parent\n");
    assert_eq!(bench.list(&result.tree), "0644 0:0 out \"made\"\n0644 0:0 tool \"1\"");
    assert!(result.image.config.config.on_build.is_empty());
    let failure = bench.failure("FROM scratch AS later\nRUN noop\nFROM parent\n");
    assert!(failure.contains("cannot pull `built`") && failure.contains("--> Dockerfile:3:6"), "{failure}");
}

#[test]
fn a_misspelt_stage_is_pointed_at() {
    let mut bench = Bench::new();
    let failure =
        bench.failure("FROM scratch AS builder\nRUN touch /x\nFROM scratch\nCOPY --from=bulder /x /\n");
    assert!(
        failure.contains("--> Dockerfile:4:13") && failure.contains("did you mean the stage `builder`?"),
        "{failure}"
    );
}

#[test]
fn a_step_for_another_machine_is_refused() {
    let mut bench = Bench::new();
    bench.file("f", "1", 0o644);
    bench.request.platform = "linux/arm64".parse().unwrap();
    let result = bench.build("FROM --platform=$BUILDPLATFORM scratch AS b\nARG TARGETARCH\nRUN write /x $TARGETARCH\nFROM scratch\nCOPY --from=b /x /\n");
    assert_eq!(result.image.config.platform().to_string(), "linux/arm64");
    let failure = bench.failure("FROM scratch\nRUN noop\n");
    assert!(failure.contains("a RUN for linux/arm64 cannot be executed"), "{failure}");
}

#[test]
fn caches_are_shared_and_kept_apart() {
    let mut bench = Bench::new();
    let cache = |bench: &Bench, sharing: &str| {
        let request = bench.last_request();
        let StepMountSource::Cache { tree, .. } = &request.mounts[0].source else { panic!("{sharing}") };
        cooper_vfs::tree::Tree::decode(tree.0.as_slice()).unwrap()
    };
    for sharing in ["shared", "locked", "private"] {
        let mount = format!("--mount=type=cache,id={sharing},target=/c,sharing={sharing}");
        let filled = bench.build("FROM scratch\nRUN write /kept yes\n").tree;
        let caches = [(sharing.to_owned(), TreeRecord(Bytes(filled.encode())))].into();
        *bench.player.answer.lock().unwrap() = Some(StepOutcome { caches, ..outcome() });
        bench.build(&format!("FROM scratch\nRUN {mount} noop {sharing}\n"));
        *bench.player.answer.lock().unwrap() = None;
        bench.build(&format!("FROM scratch\nRUN {mount} noop again {sharing}\n"));
        assert_eq!(bench.list(&cache(&bench, sharing)), "0644 0:0 kept \"yes\"", "{sharing}");
    }
}

#[test]
fn what_is_not_there_yet_is_refused_by_name_and_place() {
    let mut bench = Bench::new();
    bench.file("f", "1", 0o644);
    let mut check = |line: &str, message: &str| {
        let failure = bench.failure(&format!("FROM scratch\n{line}\n"));
        assert!(failure.contains(message) && failure.contains(" --> Dockerfile:2:"), "{failure}");
    };
    check("ADD git@example.com:x.git /", "a git repository by SSH: `example.com:x.git` is not supported yet");
    check("ADD https://example.com/x.git?a=b /", "`a` is not one of");
    check("ADD --checksum=sha256:00 https://example.com/x.git /", "invalid checksum: `sha256:00`");
    check("ADD --checksum=sha256:00 https://example.com/x /", "invalid checksum: `sha256:00`");
    check("ADD --checksum=sha256:00 f /", "`--checksum` is for exactly one source with a URL");
    check("RUN --security=insecure x", "RUN --security=insecure is refused");
    check("RUN --network=host x", "RUN --network=host is not allowed");
    check("RUN --mount=type=ssh,required=true x", "the step requires the SSH agent `default`");
    check("COPY --from=9 f /", "there is no stage number 9");
    check("COPY --chmod=rwx f /", "invalid mode: `rwx`");
    check("STOPSIGNAL SIGNOPE", "invalid signal: `SIGNOPE`");
    check("EXPOSE 70000", "invalid port: `70000`");
    check("ENV A=${B:?must be set}", "must be set");
    let failure = bench.failure("ARG V\nFROM $V\n");
    assert!(failure.contains("the base image `$V` is empty"), "{failure}");
    let failure = bench.failure("FROM nowhere\n");
    assert!(failure.contains("cannot pull `nowhere`: manifest unknown\n --> Dockerfile:1:6"), "{failure}");
}

#[test]
fn a_dockerfile_with_errors_shows_all_of_them() {
    let mut bench = Bench::new();
    let failure = bench.failure("FROM scratch\nRUM x\nCOPY\n");
    assert!(failure.contains("did you mean `RUN`?") && failure.contains("Dockerfile:3:1"), "{failure}");
}
