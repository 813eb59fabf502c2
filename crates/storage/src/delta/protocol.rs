//! What a table asks of its readers and writers, and whether this version can give it.
//!
//! Everything unknown is refused by name: a table that is misread is worse than one that is not read.

use serde_json::Value;

use super::action::{Metadata, Protocol};
use crate::error::{Error, ErrorKind, Result};

/// Features that change nothing for a reader of whole files with plain column names.
const READER_FEATURES: &[&str] = &["timestampNtz", "vacuumProtocolCheck"];

/// Features that change nothing for a writer, or only where the table's properties or schema use them, which
/// [`check_writable`] looks at.
const WRITER_FEATURES: &[&str] = &[
    "appendOnly",
    "invariants",
    "checkConstraints",
    "changeDataFeed",
    "generatedColumns",
    "columnMapping",
    "identityColumns",
    "timestampNtz",
    "vacuumProtocolCheck",
];

/// The protocol of the tables this version creates.
pub(super) fn created() -> Protocol {
    Protocol { min_reader_version: 1, min_writer_version: 2, reader_features: None, writer_features: None }
}

fn refused(table: &str, what: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("table {table} {what}"))
}

/// Whether this version reads the table right.
pub(super) fn check_readable(table: &str, protocol: &Protocol, metadata: &Metadata) -> Result<()> {
    match protocol.min_reader_version {
        1 | 2 => {}
        3 => {
            for feature in protocol.reader_features.iter().flatten() {
                // Column mapping is refused where the table's properties turn it on.
                if feature != "columnMapping" && !READER_FEATURES.contains(&feature.as_str()) {
                    return Err(refused(table, &format!("uses the reader feature {feature}, which is not supported")));
                }
            }
        }
        version => return Err(refused(table, &format!("asks for reader version {version}, which is not supported"))),
    }
    match property(metadata, "delta.columnMapping.mode") {
        None | Some("none") => {}
        Some(mode) => return Err(refused(table, &format!("uses column mapping by {mode}, which is not supported"))),
    }
    if metadata.partition_columns.iter().ne([spanlake_schema::DATE]) {
        let message = format!("is partitioned by {:?} instead of date", metadata.partition_columns);
        return Err(refused(table, &message));
    }
    match metadata.format.provider.as_str() {
        "" | "parquet" => Ok(()),
        provider => Err(refused(table, &format!("has files of the format {provider}, which is not supported"))),
    }
}

/// What a commit does, as far as the protocol asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Intent {
    /// Whether files with rows go.
    pub(super) removes_rows: bool,
}

/// Whether this version may commit to the table.
pub(super) fn check_writable(table: &str, protocol: &Protocol, metadata: &Metadata, intent: Intent) -> Result<()> {
    match protocol.min_writer_version {
        1..=6 => {}
        7 => {
            for feature in protocol.writer_features.iter().flatten() {
                if !WRITER_FEATURES.contains(&feature.as_str()) {
                    return Err(refused(table, &format!("uses the writer feature {feature}, which is not supported")));
                }
            }
        }
        version => return Err(refused(table, &format!("asks for writer version {version}, which is not supported"))),
    }
    if intent.removes_rows && property(metadata, "delta.appendOnly") == Some("true") {
        return Err(refused(table, "is append-only (delta.appendOnly), rows cannot be replaced"));
    }
    if intent.removes_rows && property(metadata, "delta.enableChangeDataFeed") == Some("true") {
        return Err(refused(table, "keeps a change data feed (delta.enableChangeDataFeed), rows cannot be replaced"));
    }
    if let Some(name) = metadata.configuration.keys().find(|name| name.starts_with("delta.constraints.")) {
        return Err(refused(table, &format!("has the check constraint {name}, which is not supported")));
    }
    check_columns(table, metadata)
}

/// Column properties that ask something of a writer.
const COLUMN_PROPERTIES: &[&str] = &["delta.invariants", "delta.generationExpression", "delta.identity."];

fn check_columns(table: &str, metadata: &Metadata) -> Result<()> {
    let schema: Value = serde_json::from_str(&metadata.schema_string)
        .map_err(|source| refused(table, "has an unreadable schema").with_source(source))?;
    for field in schema["fields"].as_array().into_iter().flatten() {
        let Some(properties) = field["metadata"].as_object() else { continue };
        if let Some(name) =
            properties.keys().find(|name| COLUMN_PROPERTIES.iter().any(|prefix| name.starts_with(prefix)))
        {
            let message = format!("has {name} on column {}, which is not supported", field["name"]);
            return Err(refused(table, &message));
        }
    }
    Ok(())
}

fn property<'m>(metadata: &'m Metadata, name: &str) -> Option<&'m str> {
    metadata.configuration.get(name)?.as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(properties: &[(&str, &str)]) -> Metadata {
        Metadata {
            partition_columns: vec!["date".to_owned()],
            schema_string: r#"{"type":"struct","fields":[]}"#.to_owned(),
            configuration: properties.iter().map(|(k, v)| ((*k).to_owned(), Some((*v).to_owned()))).collect(),
            ..Metadata::default()
        }
    }

    fn features(reader: &[&str], writer: &[&str]) -> Protocol {
        let owned = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
        Protocol {
            min_reader_version: 3,
            min_writer_version: 7,
            reader_features: owned(reader),
            writer_features: owned(writer),
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_name() {
        let plain = metadata(&[]);
        for feature in ["deletionVectors", "v2Checkpoint", "typeWidening", "somethingNew"] {
            let error = check_readable("default/spans", &features(&[feature], &[]), &plain).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(feature) && error.to_string().contains("default/spans"), "{error}");
        }
        assert!(check_readable("t", &features(&["timestampNtz", "columnMapping"], &[]), &plain).is_ok());
        let mapped = metadata(&[("delta.columnMapping.mode", "name")]);
        assert!(check_readable("t", &features(&[], &[]), &mapped).unwrap_err().to_string().contains("column mapping"));
        let mut elsewhere = metadata(&[]);
        elsewhere.partition_columns.clear();
        assert!(check_readable("t", &created(), &elsewhere).is_err());
    }

    #[test]
    fn what_a_writer_would_break_is_refused_by_name() {
        let (append, replace) = (Intent { removes_rows: false }, Intent { removes_rows: true });
        assert!(check_writable("t", &created(), &metadata(&[]), replace).is_ok());
        for feature in ["rowTracking", "inCommitTimestamp", "domainMetadata"] {
            let error = check_writable("t", &features(&[], &[feature]), &metadata(&[]), append).unwrap_err();
            assert!(error.to_string().contains(feature), "{error}");
        }
        for name in ["delta.appendOnly", "delta.enableChangeDataFeed"] {
            let table = metadata(&[(name, "true")]);
            assert!(check_writable("t", &created(), &table, append).is_ok());
            assert!(check_writable("t", &created(), &table, replace).unwrap_err().to_string().contains(name));
        }
        let constrained = metadata(&[("delta.constraints.positive", "x > 0")]);
        assert!(check_writable("t", &created(), &constrained, append).is_err());
        let mut generated = metadata(&[]);
        generated.schema_string =
            r#"{"fields":[{"name":"x","metadata":{"delta.generationExpression":"y"}}]}"#.to_owned();
        let error = check_writable("t", &created(), &generated, append).unwrap_err();
        assert!(error.to_string().contains("generationExpression"), "{error}");
    }
}
