//! The rules by which spans are read, as data: the files of `rules/`, and a file of the user's own before them.
//!
//! Here they are checked and made ready for lookup; nothing here looks at a span.

mod document;
mod emitter;
mod file;
mod names;
mod providers;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use serde::Deserialize;
use spanlake_schema::spans;
use toml::Spanned;

pub(crate) use document::{Document, Node};
pub(crate) use emitter::Emitter;
pub(crate) use file::{Class, Counts};
pub(crate) use names::Known;

use crate::span_columns::Target;
use file::{File, FileColumn, FileEvent};
use names::Names;
use providers::Providers;

/// The files the product ships. `attributes.toml` holds the version of all.
const BUILT_IN: &[(&str, &str)] = &[
    ("rules/attributes.toml", include_str!("../rules/attributes.toml")),
    ("rules/documents.toml", include_str!("../rules/documents.toml")),
    ("rules/operations.toml", include_str!("../rules/operations.toml")),
    ("rules/providers.toml", include_str!("../rules/providers.toml")),
];

/// How a value is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReadAs {
    Text,
    Provider,
    Operation,
    Tokens,
    Int,
    Float,
    Bool,
    TextList,
    Seconds,
    Milliseconds,
    Usd,
    UsdZeroUnknown,
    /// True where there is any value.
    Present,
}

/// From where a fact came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Reported,
    RawUsage,
    Event,
}

/// A fact that a rule can read: its place in [`Rules::facts`].
pub(crate) type FactIndex = usize;

/// Facts that have no column of their own: what they mean depends on the others.
const HIDDEN: &[&str] = &["either_model", "entity_name", "uncached_input_tokens", "visible_output_tokens", "answered"];

/// One column that rules fill.
#[derive(Clone, Debug)]
pub(crate) struct FactRule {
    pub(crate) column: &'static str,
    pub(crate) read_as: ReadAs,
    /// `None` for a hidden fact.
    pub(crate) target: Option<Target>,
    /// The place in [`spans::PROMOTED`] of the attribute that this column can stand in for.
    pub(crate) promoted: Option<u8>,
    /// Whether it tells of a model, an agent or a tool, not merely of HTTP or a database.
    pub(crate) is_genai: bool,
}

/// One reading of one attribute name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NameRule {
    pub(crate) fact: u8,
    pub(crate) read_as: ReadAs,
    pub(crate) dialect: u8,
    /// Whether this name is the one that the column can stand in for.
    pub(crate) canonical: bool,
    pub(crate) source: Source,
    /// Lower is preferred.
    pub(crate) rank: u32,
}

/// Ranks of what documents and events tell: after every attribute.
pub(crate) const RANK_DOCUMENTS: u32 = 1 << 16;
const RANK_DOCUMENT: u32 = 1 << 10;
/// Added to the rank of what an event tells.
pub(crate) const RANK_EVENTS: u32 = 1 << 28;

/// A dialect: whose names these are.
#[derive(Clone, Debug)]
pub(crate) struct Dialect {
    pub(crate) name: String,
    /// Read only beside one of these attributes; always where empty.
    pub(crate) only_with: Vec<Vec<u8>>,
}

/// A span event that tells facts of its span.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    name: Vec<u8>,
    /// Filled with the time from the span's start to the first such event.
    pub(crate) first: Option<NameRule>,
    /// True where there is such an event.
    pub(crate) says: Vec<NameRule>,
    pub(crate) read: Vec<(Vec<u8>, NameRule)>,
    pub(crate) carries_attributes: bool,
}

/// An operation. Its name is empty where a word says what a span is but names none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) name: String,
    pub(crate) class: Class,
    /// Whether the span's name, where it tells an operation, is to be believed rather.
    pub(crate) is_vague: bool,
}

#[derive(Clone, Debug)]
struct SpanName {
    starts: String,
    ends: String,
    operation: usize,
}

/// All rules, ready for lookup.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) version: u32,
    pub(crate) facts: Vec<FactRule>,
    pub(crate) dialects: Vec<Dialect>,
    pub(crate) documents: Vec<Document>,
    pub(crate) emitters: Vec<Emitter>,
    pub(crate) providers: Providers,
    operations: Vec<Operation>,
    operation_words: HashMap<String, usize, FixedState>,
    span_names: Vec<SpanName>,
    names: Names,
    events: Vec<Event>,
    /// How many names each fact has so far: the rank of its next one.
    ranks: Vec<u32>,
}

/// One file among several, for messages.
struct Origin<'t> {
    path: &'t str,
    text: &'t str,
}

impl Origin<'_> {
    fn problem(&self, at: usize, what: &str) -> String {
        let line = self.text.as_bytes()[..at.min(self.text.len())].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("{}:{line}: {what}", self.path)
    }

    fn at<T>(&self, place: &Spanned<String>, result: Result<T, String>) -> Result<T, String> {
        result.map_err(|what| self.problem(place.span().start, &what))
    }

    fn parse(&self) -> Result<File, String> {
        toml::from_str(self.text).map_err(|error| match error.span() {
            Some(span) => self.problem(span.start, error.message()),
            None => format!("{}: {}", self.path, error.message()),
        })
    }
}

impl Rules {
    /// The rules the product ships.
    ///
    /// # Panics
    /// Where a built-in file is broken; a test reads them.
    pub(crate) fn built_in() -> Self {
        Self::with_file(None).unwrap_or_else(|error| panic!("the built-in rules cannot be read: {error}"))
    }

    /// The rules the product ships, and before them those of a file of the user's own: its path and its text.
    ///
    /// # Errors
    /// What is wrong, with the file and the line.
    pub(crate) fn with_file(own: Option<(&str, &str)>) -> Result<Self, String> {
        let origins = own.iter().chain(BUILT_IN).map(|&(path, text)| Origin { path, text });
        let files = origins.map(|origin| Ok((origin.parse()?, origin))).collect::<Result<Vec<_>, String>>()?;
        let mut rules = Self::empty();
        let version = files.iter().find_map(|(file, origin)| (origin.path == BUILT_IN[0].0).then_some(file.version));
        // A replay can tell that rules differ; the lowest eight bits are the built-in ones' version.
        rules.version = version.unwrap_or(0) | own.map_or(0, |(_, text)| crc32c::crc32c(text.as_bytes()) << 8);
        let types = rules.column_types(&files)?;
        for (file, origin) in &files {
            for column in &file.column {
                rules.add_column(column, &types, origin, &files)?;
            }
        }
        rules.add_operations(&files)?;
        for (file, origin) in &files {
            for event in &file.event {
                rules.add_event(event, origin, &files)?;
            }
            for emitter in &file.emitter {
                rules.emitters.push(origin.at(&emitter.scope, Emitter::compile(emitter))?);
            }
        }
        rules.add_documents(&files)?;
        rules.providers = Providers::of(files.iter().map(|(file, _)| file));
        let ignored: Vec<String> = files.iter().flat_map(|(file, _)| file.ignore.clone()).collect();
        rules.names.finish(&ignored)?;
        Ok(rules)
    }

    fn empty() -> Self {
        Self {
            version: 0,
            facts: Vec::new(),
            dialects: Vec::new(),
            documents: Vec::new(),
            emitters: Vec::new(),
            providers: Providers::default(),
            operations: Vec::new(),
            operation_words: HashMap::default(),
            span_names: Vec::new(),
            names: Names::default(),
            events: Vec::new(),
            ranks: Vec::new(),
        }
    }

    /// The type of each column: as the first file that tells it has it.
    fn column_types(&self, files: &[(File, Origin<'_>)]) -> Result<BTreeMap<String, ReadAs>, String> {
        let mut types = BTreeMap::new();
        for (file, origin) in files {
            for column in &file.column {
                if let Some(read_as) = column.read_as {
                    types.entry(column.name.get_ref().clone()).or_insert(read_as);
                }
                let name = column.name.get_ref();
                let known =
                    HIDDEN.contains(&name.as_str()) || spans::SPEC.columns.iter().any(|known| known.name == name);
                origin.at(&column.name, known.then_some(()).ok_or_else(|| format!("spans has no column `{name}`")))?;
            }
        }
        Ok(types)
    }

    fn add_column(
        &mut self,
        column: &FileColumn,
        types: &BTreeMap<String, ReadAs>,
        origin: &Origin<'_>,
        files: &[(File, Origin<'_>)],
    ) -> Result<(), String> {
        let name = column.name.get_ref();
        let missing = || format!("`{name}` needs `as`: how its values are read");
        let column_as = origin.at(&column.name, types.get(name).copied().ok_or_else(missing))?;
        let fact = origin.at(&column.name, self.add_fact(name, column_as))?;
        for told in &column.read {
            let promoted = self.facts[usize::from(fact)].promoted;
            let attribute = told.name.get_ref();
            let rule = NameRule {
                fact,
                read_as: told.read_as.unwrap_or(column_as),
                dialect: origin.at(&told.name, self.dialect(&told.dialect, files))?,
                canonical: promoted.is_some_and(|at| spans::PROMOTED[usize::from(at)].attribute == attribute),
                source: Source::Reported,
                rank: self.ranks[usize::from(fact)],
            };
            origin.at(&told.name, self.names.add(attribute, rule))?;
            self.ranks[usize::from(fact)] += 1;
        }
        Ok(())
    }

    fn add_fact(&mut self, name: &str, read_as: ReadAs) -> Result<u8, String> {
        if let Some(at) = self.facts.iter().position(|known| known.column == name) {
            return Ok(at as u8);
        }
        let at = u8::try_from(self.facts.len()).map_err(|_| "too many columns".to_owned())?;
        let rule = if let Some(hidden) = HIDDEN.iter().find(|hidden| **hidden == name) {
            FactRule { column: hidden, read_as, target: None, promoted: None, is_genai: true }
        } else {
            let known = spans::SPEC.columns.iter().find(|known| known.name == name);
            let known = known.ok_or_else(|| format!("spans has no column `{name}`"))?;
            let target = Target::of(known).ok_or_else(|| format!("no fact can be read into `{name}`"))?;
            let promoted = spans::PROMOTED.iter().position(|promoted| promoted.column == name).map(|at| at as u8);
            let others = ["http_", "db_", "server_", "rpc_", "jsonrpc_", "error_type", "user_id", "session_id"];
            let is_genai = !others.iter().any(|other| name.starts_with(other));
            FactRule { column: known.name, read_as, target: Some(target), promoted, is_genai }
        };
        self.facts.push(rule);
        self.ranks.push(0);
        Ok(at)
    }

    fn dialect(&mut self, name: &str, files: &[(File, Origin<'_>)]) -> Result<u8, String> {
        let known = self.dialects.iter().position(|dialect| dialect.name == name);
        let at = known.unwrap_or_else(|| {
            let only_with = files.iter().find_map(|(file, _)| file.only_with.get(name));
            let only_with = only_with.into_iter().flatten().map(|key| key.clone().into_bytes()).collect();
            self.dialects.push(Dialect { name: name.to_owned(), only_with });
            self.dialects.len() - 1
        });
        u8::try_from(at).map_err(|_| "too many dialects".to_owned())
    }

    /// The fact of a column that some file has under `[[column]]`.
    fn known_fact(&self, column: &str) -> Result<u8, String> {
        let at = self.facts.iter().position(|fact| fact.column == column);
        at.map(|at| at as u8).ok_or_else(|| format!("`{column}` stands under no [[column]]"))
    }

    fn add_event(
        &mut self,
        event: &FileEvent,
        origin: &Origin<'_>,
        files: &[(File, Origin<'_>)],
    ) -> Result<(), String> {
        let dialect = origin.at(&event.name, self.dialect(&event.dialect, files))?;
        let rule = |column: &str| {
            let fact = origin.at(&event.name, self.known_fact(column))?;
            let read_as = self.facts[usize::from(fact)].read_as;
            Ok(NameRule { fact, read_as, dialect, canonical: false, source: Source::Event, rank: RANK_EVENTS })
        };
        let read = event.read.iter().map(|(name, column)| Ok((name.clone().into_bytes(), rule(column)?)));
        let compiled = Event {
            name: event.name.get_ref().clone().into_bytes(),
            first: event.first.as_deref().map(rule).transpose()?,
            says: event.says.iter().map(|column| rule(column)).collect::<Result<_, String>>()?,
            read: read.collect::<Result<_, String>>()?,
            carries_attributes: event.carries_attributes,
        };
        self.events.push(compiled);
        Ok(())
    }

    fn add_operations(&mut self, files: &[(File, Origin<'_>)]) -> Result<(), String> {
        for operation in files.iter().flat_map(|(file, _)| &file.operation) {
            let new = Operation { name: operation.name.clone(), class: operation.is, is_vague: operation.vague };
            let at = self.operations.iter().position(|known| *known == new).unwrap_or_else(|| {
                self.operations.push(new);
                self.operations.len() - 1
            });
            let own = (!operation.name.is_empty() && !operation.vague).then(|| operation.name.clone());
            for word in operation.spellings.iter().map(|word| word.to_lowercase()).chain(own) {
                self.operation_words.entry(word).or_insert(at);
            }
        }
        for (file, origin) in files {
            for name in &file.span_name {
                let word = name.operation.get_ref();
                let unknown = || format!("there is no operation `{word}`");
                let operation = self.operation_words.get(word.as_str()).copied().ok_or_else(unknown);
                let operation = origin.at(&name.operation, operation)?;
                let (starts, ends) = (name.starts.to_lowercase(), name.ends.to_lowercase());
                self.span_names.push(SpanName { starts, ends, operation });
            }
        }
        Ok(())
    }

    fn add_documents(&mut self, files: &[(File, Origin<'_>)]) -> Result<(), String> {
        let shape_of = |name: &str| {
            let shape = files.iter().find_map(|(file, _)| file.shape.get(name))?;
            Some(file::FileShape { when: shape.when.clone(), unless: shape.unless.clone(), facts: shape.facts.clone() })
        };
        for (file, origin) in files {
            for told in &file.document {
                let dialect = origin.at(&told.name, self.dialect(&told.dialect, files))?;
                let fact = |column: &str| self.known_fact(column);
                let document = origin.at(&told.name, Document::compile(told, dialect, &shape_of, &fact))?;
                let at = u8::try_from(self.documents.len()).map_err(|_| "too many documents".to_owned())?;
                self.documents.push(document);
                self.names.add_document(told.name.get_ref(), at);
            }
        }
        Ok(())
    }

    /// What an attribute's name tells; `None` for one that no rule knows.
    #[inline]
    pub(crate) fn find(&self, key: &[u8]) -> Option<Known<'_>> {
        self.names.find(key)
    }

    /// The rule of a span event; `None` for one that tells nothing of its span.
    #[inline]
    pub(crate) fn event(&self, name: &[u8]) -> Option<&Event> {
        self.events.iter().find(|event| event.name == name)
    }

    /// The rank of what a document's leaf tells.
    pub(crate) fn document_rank(document: u8, order: u16) -> u32 {
        RANK_DOCUMENTS + u32::from(document) * RANK_DOCUMENT + u32::from(order)
    }

    /// The place of a column in [`Rules::facts`].
    ///
    /// # Panics
    /// Where no rule fills the column.
    pub(crate) fn fact(&self, column: &str) -> FactIndex {
        let place = self.facts.iter().position(|fact| fact.column == column);
        place.unwrap_or_else(|| panic!("no rule fills the column {column}"))
    }

    /// The operation that a producer's word stands for; `None` where no rule knows the word.
    pub(crate) fn operation(&self, told: &str) -> Option<&Operation> {
        self.operation_at(told).map(|at| self.known_operation(at))
    }

    /// The place of the operation that a producer's word stands for.
    pub(crate) fn operation_at(&self, told: &str) -> Option<usize> {
        let told = told.trim().trim_matches('"');
        let known = self.operation_words.get(told);
        known.or_else(|| self.operation_words.get(told.to_lowercase().as_str())).copied()
    }

    /// The operation at a place.
    pub(crate) fn known_operation(&self, at: usize) -> &Operation {
        &self.operations[at]
    }

    /// The operation that a span's name gives away.
    pub(crate) fn operation_of_span(&self, name: &str) -> Option<&Operation> {
        let name = name.trim().to_lowercase();
        let by_rule = self.span_names.iter().find(|rule| name.starts_with(&rule.starts) && name.ends_with(&rule.ends));
        if let Some(rule) = by_rule {
            return Some(&self.operations[rule.operation]);
        }
        // `chat gpt-4o`, as the conventions have it.
        let word = name.split(' ').next()?;
        let at = self.operation_words.get(word)?;
        Some(&self.operations[*at]).filter(|operation| operation.name == word)
    }
}
