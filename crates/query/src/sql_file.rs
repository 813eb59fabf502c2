//! SQL files with a header: rollups and views.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::{QueryError, QueryErrorKind, guard};

/// Most bytes of a user's file: a statement's limit is the same.
const FILE_BYTES_MAX: u64 = guard::STATEMENT_LIMIT_BYTES as u64;

/// The `.sql` files of a user's folder and their texts; none where there is no such folder.
///
/// # Errors
/// Where the folder or a file cannot be read, or a file is too large.
pub(crate) fn read_folder(folder: &Path) -> Result<BTreeMap<PathBuf, String>, QueryError> {
    let unreadable = |path: &Path, error: std::io::Error| {
        QueryError::invalid(format!("sql_dir: cannot read {}: {error}", path.display()))
    };
    let mut files = BTreeMap::new();
    if !folder.is_dir() {
        return Ok(files);
    }
    for entry in std::fs::read_dir(folder).map_err(|error| unreadable(folder, error))? {
        let path = entry.map_err(|error| unreadable(folder, error))?.path();
        if path.extension().is_none_or(|extension| extension != "sql") {
            continue;
        }
        let bytes = path.metadata().map_err(|error| unreadable(&path, error))?.len();
        if bytes > FILE_BYTES_MAX {
            let message = format!("has {bytes} bytes, a file at most {FILE_BYTES_MAX}");
            return Err(error_at(&path.to_string_lossy(), 1, 1, &message));
        }
        let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, error))?;
        files.insert(path, text);
    }
    Ok(files)
}

/// One `-- key: value` line.
pub(crate) struct Entry {
    key: String,
    pub(crate) value: String,
    pub(crate) line: usize,
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

    /// As [`Header::name`], fit for SQL without quotes.
    pub(crate) fn plain_name(&self) -> Result<&Entry, QueryError> {
        let name = self.name()?;
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if name.value.bytes().all(plain) && name.value.starts_with(|first: char| first.is_ascii_lowercase()) {
            return Ok(name);
        }
        let message = format!("name {} is not of lower-case letters, digits and underscores", name.value);
        Err(self.error(name, message))
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
