//! The actions of the Delta log, as they stand in its JSON commits and in its checkpoints.

use std::collections::{BTreeMap, HashMap};

use chrono::{Datelike, NaiveDate};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use spanlake_schema::DATE;

use super::Segment;
use crate::error::{Error, ErrorKind, Result};

/// One line of a commit, or one row of a checkpoint: exactly one field is set. What this version does not know is left
/// out on reading; the protocol says whether that is safe (`protocol.rs`).
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Action {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) commit_info: Option<CommitInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) protocol: Option<Protocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) meta_data: Option<Metadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) txn: Option<Txn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) add: Option<Add>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remove: Option<Remove>,
    /// Only read, to refuse a checkpoint of the second format.
    #[serde(skip_serializing)]
    pub(super) sidecar: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CommitInfo {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) timestamp: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) operation: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) operation_parameters: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) engine_info: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) is_blind_append: Option<bool>,
    /// Identifies one call of `commit`, so that it recognises its own work after a lost answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) txn_id: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(super) struct Protocol {
    pub(super) min_reader_version: i32,
    pub(super) min_writer_version: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reader_features: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) writer_features: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    pub(super) id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<String>,
    #[serde(default)]
    pub(super) format: Format,
    pub(super) schema_string: String,
    pub(super) partition_columns: Vec<String>,
    #[serde(default)]
    pub(super) configuration: BTreeMap<String, Option<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) created_time: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub(super) struct Format {
    pub(super) provider: String,
    #[serde(default)]
    pub(super) options: BTreeMap<String, Option<String>>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(super) struct Txn {
    pub(super) app_id: String,
    pub(super) version: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_updated: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Add {
    /// A URL relative to the table's root, percent-encoded.
    pub(super) path: String,
    #[serde(default)]
    pub(super) partition_values: HashMap<String, Option<String>>,
    pub(super) size: i64,
    pub(super) modification_time: i64,
    #[serde(default)]
    pub(super) data_change: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) stats: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tags: Option<BTreeMap<String, Option<String>>>,
    /// Only read, to refuse it.
    #[serde(default, skip_serializing)]
    pub(super) deletion_vector: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Remove {
    pub(super) path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) deletion_timestamp: Option<i64>,
    #[serde(default)]
    pub(super) data_change: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) extended_file_metadata: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) partition_values: Option<HashMap<String, Option<String>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) size: Option<i64>,
}

/// The tag of a file that names the promoted columns that it holds as its rows have their attributes. A tool that rewrites files
/// leaves tags behind, and so has to.
pub(super) const PROMOTED_TAG: &str = "spanlake.promoted";

impl Add {
    /// The action that adds a segment under its own, or a given, encoded path.
    pub(super) fn of(segment: &Segment, encoded_path: Option<&str>, data_change: bool) -> Self {
        Self {
            path: encoded_path.map_or_else(|| encode_path(&segment.path), str::to_owned),
            partition_values: partition_values(segment.date),
            size: i64::try_from(segment.size_bytes).unwrap_or(i64::MAX),
            modification_time: segment.modification_time_ms,
            data_change,
            stats: segment.stats.as_ref().map(ToString::to_string),
            tags: segment.promoted.as_ref().map(|held| [(PROMOTED_TAG.to_owned(), Some(held.to_string()))].into()),
            deletion_vector: None,
        }
    }

    /// The segment that this action adds.
    pub(super) fn to_segment(&self) -> Result<Segment> {
        if self.deletion_vector.as_ref().is_some_and(|vector| vector.get("storageType").is_some()) {
            let message = format!("segment {} carries a deletion vector, which this version cannot read", self.path);
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let corrupt = |what: &str| Error::new(ErrorKind::Corrupt, format!("segment {} has {what}", self.path));
        let stats = match self.stats.as_deref() {
            None | Some("") => None,
            // Statistics only serve pruning: what cannot be read prunes nothing.
            Some(text) => serde_json::from_str::<Value>(text).ok().map(std::sync::Arc::new),
        };
        Ok(Segment {
            path: decode_path(&self.path)?,
            size_bytes: u64::try_from(self.size).map_err(|_| corrupt("a negative size"))?,
            date: match self.partition_values.get(DATE).and_then(Option::as_deref) {
                None | Some("") => None,
                Some(text) => Some(parse_date(text).ok_or_else(|| corrupt("an unreadable partition value of date"))?),
            },
            modification_time_ms: self.modification_time,
            stats,
            promoted: self.tags.as_ref().and_then(|tags| tags.get(PROMOTED_TAG)?.as_deref().map(Into::into)),
        })
    }
}

/// The partition values of a date.
pub(super) fn partition_values(date: Option<i32>) -> HashMap<String, Option<String>> {
    HashMap::from([(DATE.to_owned(), date.map(format_date))])
}

/// Days from year 1 to 1970, the two epochs of `chrono` and Arrow.
const DAYS_TO_1970: i32 = 719_163;

/// `2026-01-31`.
pub(crate) fn format_date(days: i32) -> String {
    let date = days.checked_add(DAYS_TO_1970).and_then(NaiveDate::from_num_days_from_ce_opt);
    date.unwrap_or(if days < 0 { NaiveDate::MIN } else { NaiveDate::MAX }).to_string()
}

fn parse_date(text: &str) -> Option<i32> {
    let date = text.parse::<NaiveDate>().ok()?;
    Some(date.num_days_from_ce() - DAYS_TO_1970)
}

/// A path as the log holds it: a relative URL. Separators and what every tool writes plainly stay as they are.
pub(super) fn encode_path(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' | b'=' | b'+' | b',' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// The path below the table's root that a relative URL names.
pub(super) fn decode_path(encoded: &str) -> Result<String> {
    let refused = |why: &str| Error::new(ErrorKind::Invalid, format!("segment path {encoded} {why}"));
    if encoded.starts_with('/') || encoded.contains("://") {
        return Err(refused("is absolute, which this version cannot read"));
    }
    let bytes = encoded.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let escaped = (bytes[index] == b'%').then(|| bytes.get(index + 1..index + 3)).flatten();
        let escaped = escaped.filter(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        match escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                index += 3;
            }
            None => {
                decoded.push(bytes[index]);
                index += 1;
            }
        }
    }
    let path = String::from_utf8(decoded).map_err(|source| refused("is not UTF-8 once decoded").with_source(source))?;
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(refused("leaves the table"));
    }
    Ok(path)
}

/// The actions of one commit file.
pub(super) fn parse_commit(bytes: &[u8]) -> Result<Vec<Action>, serde_json::Error> {
    bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.iter().all(u8::is_ascii_whitespace))
        .map(serde_json::from_slice)
        .collect()
}

/// One commit file of these actions.
pub(super) fn render_commit(actions: &[Action]) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = Vec::new();
    for action in actions {
        serde_json::to_writer(&mut bytes, action)?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dates_are_written_as_partition_values_and_read_back() {
        assert_eq!(format_date(0), "1970-01-01");
        assert_eq!(format_date(20_484), "2026-01-31");
        for days in [-719_162, -1, 0, 1, 20_484, 2_932_896] {
            assert_eq!(parse_date(&format_date(days)), Some(days));
        }
    }

    #[test]
    fn paths_that_leave_the_table_are_refused() {
        for path in ["/etc/passwd", "s3://bucket/x", "a/../../x", "%2E%2E/x", "%2Fetc"] {
            assert_eq!(decode_path(path).unwrap_err().kind(), ErrorKind::Invalid, "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_path_is_read_back_from_its_encoding(path in "[^/.][ -~äöü%/=]{0,40}") {
            prop_assume!(!path.contains("://"));
            prop_assert_eq!(decode_path(&encode_path(&path)).unwrap(), path);
        }
    }
}
