//! Signal numbers and sets of them.

/// Signals are numbered from 1 to this.
pub(crate) const COUNT: usize = 64;

/// The first real-time signal: those queue, the others do not.
pub(crate) const FIRST_REALTIME: u32 = 32;

/// Numbers on x86-64.
pub(crate) mod signal {
    pub(crate) const HUP: u32 = 1;
    pub(crate) const INT: u32 = 2;
    pub(crate) const QUIT: u32 = 3;
    pub(crate) const ILL: u32 = 4;
    pub(crate) const TRAP: u32 = 5;
    pub(crate) const ABRT: u32 = 6;
    pub(crate) const BUS: u32 = 7;
    pub(crate) const FPE: u32 = 8;
    pub(crate) const KILL: u32 = 9;
    pub(crate) const SEGV: u32 = 11;
    pub(crate) const PIPE: u32 = 13;
    pub(crate) const ALRM: u32 = 14;
    pub(crate) const CHLD: u32 = 17;
    pub(crate) const CONT: u32 = 18;
    pub(crate) const STOP: u32 = 19;
    pub(crate) const TSTP: u32 = 20;
    pub(crate) const TTIN: u32 = 21;
    pub(crate) const TTOU: u32 = 22;
    pub(crate) const URG: u32 = 23;
    pub(crate) const XCPU: u32 = 24;
    pub(crate) const XFSZ: u32 = 25;
    pub(crate) const VTALRM: u32 = 26;
    pub(crate) const PROF: u32 = 27;
    pub(crate) const WINCH: u32 = 28;
    pub(crate) const SYS: u32 = 31;
}

/// A set of signals; bit `n - 1` stands for signal `n`, as in the kernel's `sigset_t`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SignalSet(pub(crate) u64);

impl SignalSet {
    /// No signal.
    pub(crate) const EMPTY: Self = Self(0);
    /// The signals that cannot be blocked, caught or ignored.
    pub(crate) const UNBLOCKABLE: Self = Self::of(signal::KILL).with(signal::STOP);
    /// The signals that stop a process by default.
    pub(crate) const STOPS: Self =
        Self::of(signal::STOP).with(signal::TSTP).with(signal::TTIN).with(signal::TTOU);
    /// The signals that an instruction causes: delivered before others.
    pub(crate) const SYNCHRONOUS: Self = Self::of(signal::SEGV)
        .with(signal::BUS)
        .with(signal::ILL)
        .with(signal::TRAP)
        .with(signal::FPE)
        .with(signal::SYS);

    /// Just `number`.
    pub(crate) const fn of(number: u32) -> Self {
        Self(1 << (number - 1))
    }

    /// With `number` added.
    pub(crate) const fn with(self, number: u32) -> Self {
        Self(self.0 | Self::of(number).0)
    }

    /// Whether `number` is in the set.
    pub(crate) const fn contains(self, number: u32) -> bool {
        self.0 & Self::of(number).0 != 0
    }

    /// Without what `other` holds.
    pub(crate) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// In either.
    pub(crate) const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// In both.
    pub(crate) const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether the set is empty.
    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The signal to deliver first: synchronous ones, then by number.
    pub(crate) fn first(self) -> Option<u32> {
        let urgent = self.intersection(Self::SYNCHRONOUS);
        let from = if urgent.is_empty() { self } else { urgent };
        (!from.is_empty()).then(|| from.0.trailing_zeros() + 1)
    }

    /// A mask that a program asked for: without the signals that cannot be blocked.
    pub(crate) const fn as_mask(self) -> Self {
        self.without(Self::UNBLOCKABLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn synchronous_signals_come_first_then_the_lowest() {
        assert_eq!(SignalSet::of(signal::HUP).with(signal::SEGV).first(), Some(signal::SEGV));
        assert_eq!(SignalSet::of(15).with(signal::HUP).first(), Some(signal::HUP));
        assert_eq!(SignalSet::EMPTY.first(), None);
        assert_eq!(SignalSet::of(64).first(), Some(64));
    }

    #[test]
    fn kill_and_stop_cannot_be_masked() {
        assert_eq!(SignalSet(u64::MAX).as_mask().0, !(1 << 8 | 1 << 18));
    }
}
