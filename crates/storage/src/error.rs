use std::error::Error as StdError;
use std::fmt;

use object_store::path::Path;

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The store or disk failed in a way that may pass: try again later.
    Retry,
    /// A bound was reached: push back to the sender, try again later.
    Full,
    /// What was asked for cannot be: fix the input or the configuration.
    Invalid,
    /// Data at rest is not what it must be: a person has to look.
    Corrupt,
    /// The process is shutting down.
    Closed,
}

/// An error of storage: what failed, where, and what caused it.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error without a deeper cause. The message is lower case, unpunctuated, and names what and where.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

/// What failed on the store, as this crate's error. Where credentials or configuration are wrong, trying again is in
/// vain; everything else may pass.
pub(crate) fn store_error(what: &str, path: &Path, source: object_store::Error) -> Error {
    let kind = match &source {
        object_store::Error::Unauthenticated { .. }
        | object_store::Error::PermissionDenied { .. }
        | object_store::Error::NotImplemented { .. }
        | object_store::Error::NotSupported { .. }
        | object_store::Error::InvalidPath { .. }
        | object_store::Error::UnknownConfigurationKey { .. } => ErrorKind::Invalid,
        _ => ErrorKind::Retry,
    };
    Error::new(kind, format!("cannot {what} {path}")).with_source(source)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}
