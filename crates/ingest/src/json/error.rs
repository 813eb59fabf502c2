//! What is wrong with a JSON body, and where.

use std::borrow::Cow;
use std::fmt::{self, Write};

/// A JSON body that cannot be read: what is wrong, at which field and at which place of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonError {
    what: Cow<'static, str>,
    path: String,
    offset_bytes: usize,
    line: usize,
    column: usize,
}

impl JsonError {
    /// What is wrong.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// The field, such as `resourceSpans[0].scopeSpans[0].spans[3].traceId`; empty for the body as a whole.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The place in the body, counted in bytes from 0.
    pub fn offset_bytes(&self) -> usize {
        self.offset_bytes
    }

    /// The line, counted from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// The byte within the line, counted from 1.
    pub fn column(&self) -> usize {
        self.column
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { "body" } else { &self.path };
        write!(f, "{path}: {} (line {}, column {}, byte {})", self.what, self.line, self.column, self.offset_bytes)
    }
}

impl std::error::Error for JsonError {}

/// One step of a path, noted from the innermost outward while an error is handed up.
#[derive(Clone, Copy, Debug)]
enum Step {
    Field(&'static str),
    Index(usize),
}

/// An error on its way up: the path grows at each level, so that a body without errors pays nothing for paths.
#[derive(Debug)]
pub(super) struct Failure {
    what: Cow<'static, str>,
    offset_bytes: usize,
    steps: Vec<Step>,
}

impl Failure {
    pub(super) fn new(what: impl Into<Cow<'static, str>>, offset_bytes: usize) -> Self {
        Self { what: what.into(), offset_bytes, steps: Vec::new() }
    }

    pub(super) fn in_field(mut self, name: &'static str) -> Self {
        self.steps.push(Step::Field(name));
        self
    }

    pub(super) fn at_index(mut self, index: usize) -> Self {
        self.steps.push(Step::Index(index));
        self
    }

    /// The same error in a body that has `skipped_bytes` more at its start.
    pub(super) fn after(mut self, skipped_bytes: usize) -> Self {
        self.offset_bytes += skipped_bytes;
        self
    }

    pub(super) fn locate(self, body: &[u8]) -> JsonError {
        let mut path = String::new();
        for step in self.steps.iter().rev() {
            match step {
                Step::Field(name) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(name);
                }
                Step::Index(index) => write!(path, "[{index}]").expect("writing to a string never fails"),
            }
        }
        let before = &body[..self.offset_bytes.min(body.len())];
        let line_start = memchr::memrchr(b'\n', before).map_or(0, |at| at + 1);
        JsonError {
            what: self.what,
            path,
            offset_bytes: self.offset_bytes,
            line: memchr::memchr_iter(b'\n', before).count() + 1,
            column: before.len() - line_start + 1,
        }
    }
}
