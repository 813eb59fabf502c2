//! SQL files with a header: rollups and views.

use crate::{QueryError, QueryErrorKind};

/// One `-- key: value` line.
pub(crate) struct Entry {
    key: String,
    pub(crate) value: String,
    line: usize,
}

/// The lines before the SELECT. A line `--` ends the keys; what follows it is prose.
pub(crate) struct Header<'a> {
    file: &'a str,
    entries: Vec<Entry>,
    /// The line at which the SELECT starts.
    pub(crate) select_line: usize,
}

impl<'a> Header<'a> {
    /// Reads the header of a file; `keys` are those that it may have.
    pub(crate) fn parse(file: &'a str, text: &str, keys: &[&str]) -> Result<Self, QueryError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut prose = false;
        let mut last_line = 0;
        for (index, content) in text.lines().enumerate() {
            let line = index + 1;
            last_line = line;
            let content = content.trim();
            let Some(comment) = content.strip_prefix("--") else {
                if content.is_empty() {
                    prose = true;
                    continue;
                }
                return Ok(Self { file, entries, select_line: line });
            };
            prose |= comment.trim().is_empty();
            if prose {
                continue;
            }
            let (key, value) =
                comment.split_once(':').map(|(key, value)| (key.trim(), value.trim())).ok_or_else(|| {
                    error_at(file, line, 1, "a header line is `-- key: value`; prose follows a line `--`")
                })?;
            if !keys.contains(&key) {
                let message = format!("header key {key:?} is none of {}", keys.join(", "));
                return Err(error_at(file, line, 1, &message));
            }
            if let Some(earlier) = entries.iter().find(|entry| entry.key == key) {
                return Err(error_at(file, line, 1, &format!("header key {key} stands on line {} too", earlier.line)));
            }
            if value.is_empty() {
                return Err(error_at(file, line, 1, &format!("header key {key} has no value")));
            }
            entries.push(Entry { key: key.to_owned(), value: value.to_owned(), line });
        }
        Err(error_at(file, last_line.max(1), 1, "the file ends before its select"))
    }

    /// The file's own name, which the header has to repeat.
    pub(crate) fn name(&self) -> Result<&Entry, QueryError> {
        let name = self.required("name")?;
        let stem = self.file.rsplit('/').next().and_then(|last| last.strip_suffix(".sql")).unwrap_or(self.file);
        if name.value != stem {
            return Err(self.error(name, format!("name {} differs from the file's name {stem}", name.value)));
        }
        Ok(name)
    }

    /// The entry of a key, where there is one.
    pub(crate) fn optional(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The entry of a key.
    pub(crate) fn required(&self, key: &str) -> Result<&Entry, QueryError> {
        self.optional(key).ok_or_else(|| error_at(self.file, 1, 1, &format!("the header has no key {key}")))
    }

    /// An error of an entry.
    pub(crate) fn error(&self, entry: &Entry, message: impl AsRef<str>) -> QueryError {
        error_at(self.file, entry.line, 1, message.as_ref())
    }
}

/// An error at a place of a file.
pub(crate) fn error_at(file: &str, line: usize, column: u64, message: &str) -> QueryError {
    QueryError {
        kind: QueryErrorKind::Invalid,
        message: format!("{file}:{line}:{column}: {message}"),
        position: Some((line as u64, column)),
    }
}
