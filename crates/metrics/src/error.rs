//! What can go wrong with a histogram.

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Two things that do not belong together, such as integers and doubles, or different bounds: use one kind.
    Mismatch,
    /// A count or number beyond what can be held: use fewer or smaller numbers.
    Overflow,
    /// A foreign histogram that contradicts its own format: fix the producer.
    Invalid,
    /// A histogram that the other format cannot express: downscale it or choose another format.
    Unsupported,
    /// Encoded bytes that are not what this crate writes: a person has to look.
    Corrupt,
}

/// An error of this crate: what is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    #[cold]
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    #[cold]
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    #[cold]
    pub(crate) fn too_many() -> Self {
        Self::new(ErrorKind::Overflow, format!("a histogram counts at most {} values", u64::MAX))
    }

    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}
