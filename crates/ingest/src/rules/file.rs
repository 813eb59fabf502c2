//! The shape of a rules file, as TOML has it. `rules/README.md` describes it for people.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::ReadAs;

/// One file of rules. Of several files the first to say something wins.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) version: u32,
    pub(super) ignore: Vec<String>,
    pub(super) column: Vec<FileColumn>,
    pub(super) event: Vec<FileEvent>,
    pub(super) shape: BTreeMap<String, FileShape>,
    pub(super) document: Vec<FileDocument>,
    pub(super) operation: Vec<FileOperation>,
    pub(super) span_name: Vec<FileSpanName>,
    pub(super) emitter: Vec<FileEmitter>,
    pub(super) only_with: BTreeMap<String, Vec<String>>,
    pub(super) providers: BTreeMap<String, Vec<String>>,
    pub(super) frameworks: Vec<String>,
    pub(super) hosts: BTreeMap<String, String>,
    pub(super) models: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileColumn {
    pub(super) name: Spanned<String>,
    #[serde(rename = "as")]
    pub(super) read_as: Option<ReadAs>,
    pub(super) read: Vec<FileName>,
}

/// One attribute name, `N` standing for a number where it is a whole part of the name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileName {
    pub(super) dialect: String,
    pub(super) name: Spanned<String>,
    /// Where this name's unit or type is not the column's.
    #[serde(rename = "as")]
    pub(super) read_as: Option<ReadAs>,
}

/// A span event that tells facts of its span.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileEvent {
    pub(super) dialect: String,
    pub(super) name: Spanned<String>,
    /// The column that the time from the span's start to the first such event fills.
    pub(super) first: Option<String>,
    /// Columns that are true where there is such an event.
    #[serde(default)]
    pub(super) says: Vec<String>,
    /// Columns by the event's own attributes.
    #[serde(default)]
    pub(super) read: BTreeMap<String, String>,
    /// Whether the event's attributes are read as those of a span are.
    #[serde(default)]
    pub(super) carries_attributes: bool,
}

/// Where facts lie in a JSON object: column, then paths in order of preference. A part `[]` is any item of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileShape {
    /// Only where one of these paths is there.
    pub(super) when: Vec<String>,
    /// Only where none of these paths is there.
    pub(super) unless: Vec<String>,
    pub(super) facts: BTreeMap<String, Vec<String>>,
}

/// An attribute that holds JSON, as text or as an OTLP map.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileDocument {
    pub(super) dialect: String,
    pub(super) name: Spanned<String>,
    #[serde(default)]
    pub(super) shapes: Vec<FilePlace>,
    #[serde(default)]
    pub(super) facts: BTreeMap<String, Vec<String>>,
    /// Whether its token counts are what the producer reports as such, not the provider's raw answer.
    #[serde(default)]
    pub(super) reported: bool,
    /// Whether anything but JSON here is a type conflict.
    #[serde(default)]
    pub(super) always_json: bool,
}

/// A shape, and where in the document it is found: nothing for the document itself.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FilePlace {
    pub(super) shape: String,
    #[serde(default)]
    pub(super) at: String,
}

/// What spans of an operation are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Class {
    /// The call of a model.
    Call,
    /// Something around or beside calls: what it tells of usage repeats theirs.
    Part,
    /// Nothing is known of it: its usage tells.
    #[default]
    Unknown,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileOperation {
    /// Empty for words that say what a span is but name no operation.
    pub(super) name: String,
    pub(super) is: Class,
    /// Whether its words leave open how a model was called.
    #[serde(default)]
    pub(super) vague: bool,
    #[serde(default)]
    pub(super) spellings: Vec<String>,
}

/// A span's name that tells its operation, where no attribute does. Compared in lower case.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileSpanName {
    #[serde(default)]
    pub(super) starts: String,
    #[serde(default)]
    pub(super) ends: String,
    pub(super) operation: Spanned<String>,
}

/// How an emitter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Counts {
    Includes,
    Excludes,
}

/// Facts about one emitter.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileEmitter {
    /// The instrumentation scope's name, or its start followed by `*`.
    pub(super) scope: Spanned<String>,
    /// The first version it holds for.
    pub(super) from: Option<String>,
    /// The first version it no longer holds for.
    pub(super) until: Option<String>,
    /// Providers it holds for; empty for all.
    #[serde(default)]
    pub(super) providers: Vec<String>,
    /// Attributes whose presence says that it does not hold.
    #[serde(default)]
    pub(super) unless: Vec<String>,
    /// Whether the input count includes cached tokens.
    pub(super) input_cache: Option<Counts>,
    /// Whether the output count includes reasoning tokens.
    pub(super) output_reasoning: Option<Counts>,
    /// Its own words for operations.
    #[serde(default)]
    pub(super) operations: BTreeMap<String, String>,
    /// Operations that are calls when this emitter tells of them.
    #[serde(default)]
    pub(super) calls: Vec<String>,
}
