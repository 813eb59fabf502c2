//! The rules by which attributes are read, as data: `rules/attributes.toml`.
//!
//! A lookup costs one multiplication and one comparison for most keys, so that a span no rule knows costs next to
//! nothing.

use std::collections::BTreeMap;

use serde::Deserialize;
use spanlake_schema::spans;

use crate::span_columns::Target;

const BUILT_IN: &str = include_str!("../rules/attributes.toml");

/// How a value is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReadAs {
    Text,
    Provider,
    Tokens,
    Int,
    Float,
    Bool,
    TextList,
    Seconds,
    Milliseconds,
    Usd,
    UsdZeroUnknown,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    inference_operations: Vec<String>,
    column: Vec<FileColumn>,
    only_with: BTreeMap<String, Vec<String>>,
    providers: BTreeMap<String, Vec<String>>,
    hosts: BTreeMap<String, String>,
    models: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileColumn {
    name: String,
    #[serde(rename = "as")]
    read_as: ReadAs,
    read: Vec<FileName>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileName {
    dialect: String,
    name: String,
}

/// A fact that a rule can read: its place in [`Rules::facts`].
pub(crate) type FactIndex = usize;

/// One column that rules fill.
#[derive(Clone, Debug)]
pub(crate) struct FactRule {
    pub(crate) column: &'static str,
    pub(crate) read_as: ReadAs,
    pub(crate) target: Target,
    /// The place in [`spans::PROMOTED`] of the attribute that this column can stand in for.
    pub(crate) promoted: Option<u8>,
}

/// One reading of one attribute name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NameRule {
    pub(crate) fact: u8,
    /// Lower is preferred.
    pub(crate) rank: u8,
    pub(crate) dialect: u8,
    /// Whether this name is the one that the column can stand in for.
    pub(crate) canonical: bool,
}

/// A dialect: whose names these are.
#[derive(Clone, Debug)]
pub(crate) struct Dialect {
    pub(crate) name: String,
    /// Read only beside one of these attributes; always where empty.
    pub(crate) only_with: Vec<Vec<u8>>,
}

/// All rules, ready for lookup.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) version: u32,
    pub(crate) facts: Vec<FactRule>,
    pub(crate) dialects: Vec<Dialect>,
    pub(crate) inference_operations: Vec<String>,
    provider_spellings: BTreeMap<String, String>,
    hosts: Vec<(String, String)>,
    models: Vec<(String, String)>,
    names: Vec<(Vec<u8>, Vec<NameRule>)>,
    table: Vec<u16>,
}

const TABLE_SIZE: usize = 4096;
const ABSENT: u16 = u16::MAX;

/// Spreads keys by length and last eight bytes: attribute names differ at their ends.
#[inline]
fn place(key: &[u8]) -> usize {
    let tail = match key.last_chunk::<8>() {
        Some(chunk) => u64::from_le_bytes(*chunk),
        None => key.iter().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    };
    let mixed = (tail ^ (key.len() as u64) << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 52) as usize
}

impl Rules {
    /// The rules the product ships.
    ///
    /// # Panics
    /// Where the built-in file is broken; a test reads it.
    pub(crate) fn built_in() -> Self {
        Self::parse(BUILT_IN).unwrap_or_else(|error| panic!("the built-in rules cannot be read: {error}"))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut rules = Self {
            version: file.version,
            facts: Vec::new(),
            dialects: Vec::new(),
            inference_operations: file.inference_operations,
            provider_spellings: BTreeMap::new(),
            hosts: file.hosts.into_iter().collect(),
            models: file.models.into_iter().collect(),
            names: Vec::new(),
            table: vec![ABSENT; TABLE_SIZE],
        };
        for (provider, spellings) in file.providers {
            rules.provider_spellings.extend(spellings.into_iter().map(|spelling| (spelling, provider.clone())));
        }
        for column in &file.column {
            rules.add_column(column, &file.only_with)?;
        }
        rules.build_table();
        Ok(rules)
    }

    fn add_column(&mut self, column: &FileColumn, only_with: &BTreeMap<String, Vec<String>>) -> Result<(), String> {
        let known = spans::SPEC.columns.iter().find(|known| known.name == column.name);
        let known = known.ok_or_else(|| format!("spans has no column {}", column.name))?;
        let promoted = spans::PROMOTED.iter().position(|promoted| promoted.column == column.name);
        let fact = u8::try_from(self.facts.len()).map_err(|_| "too many columns".to_owned())?;
        let target = Target::of(known).ok_or_else(|| format!("no fact can be read into {}", column.name))?;
        let promoted = promoted.map(|at| at as u8);
        let rule = FactRule { column: known.name, read_as: column.read_as, target, promoted };
        self.facts.push(rule);
        for (rank, name) in column.read.iter().enumerate() {
            let canonical = promoted.is_some_and(|at| spans::PROMOTED[usize::from(at)].attribute == name.name);
            let dialect = self.dialect(&name.dialect, only_with);
            let rule = NameRule { fact, rank: rank as u8, dialect, canonical };
            match self.names.iter_mut().find(|(known, _)| known == name.name.as_bytes()) {
                Some((_, rules)) => rules.push(rule),
                None => self.names.push((name.name.clone().into_bytes(), vec![rule])),
            }
        }
        Ok(())
    }

    fn dialect(&mut self, name: &str, only_with: &BTreeMap<String, Vec<String>>) -> u8 {
        let known = self.dialects.iter().position(|dialect| dialect.name == name);
        let at = known.unwrap_or_else(|| {
            let only_with = only_with.get(name).into_iter().flatten().map(|key| key.clone().into_bytes()).collect();
            self.dialects.push(Dialect { name: name.to_owned(), only_with });
            self.dialects.len() - 1
        });
        at as u8
    }

    fn build_table(&mut self) {
        for (index, (name, _)) in self.names.iter().enumerate() {
            let mut at = place(name);
            while self.table[at] != ABSENT {
                at = (at + 1) % TABLE_SIZE;
            }
            self.table[at] = index as u16;
        }
    }

    /// The readings of an attribute name; empty for a name that no rule knows.
    #[inline]
    pub(crate) fn readings(&self, key: &[u8]) -> &[NameRule] {
        let mut at = place(key);
        loop {
            let index = self.table[at];
            if index == ABSENT {
                return &[];
            }
            let (name, rules) = &self.names[usize::from(index)];
            if name == key {
                return rules;
            }
            at = (at + 1) % TABLE_SIZE;
        }
    }

    /// The place of a column in [`Rules::facts`].
    ///
    /// # Panics
    /// Where no rule fills the column.
    pub(crate) fn fact(&self, column: &str) -> FactIndex {
        let place = self.facts.iter().position(|fact| fact.column == column);
        place.unwrap_or_else(|| panic!("no rule fills the column {column}"))
    }

    /// The well-known name of a provider, or its own spelling in lower case.
    pub(crate) fn provider(&self, told: &str) -> String {
        let told = told.trim().to_ascii_lowercase();
        if let Some(known) = self.provider_spellings.get(&told) {
            return known.clone();
        }
        let head = told.split('.').next().unwrap_or(&told);
        self.provider_spellings.get(head).cloned().unwrap_or(told)
    }

    /// The provider that serves at a host.
    pub(crate) fn provider_of_host(&self, host: &str) -> Option<&str> {
        let host = host.to_ascii_lowercase();
        let found = self.hosts.iter().find(|(end, _)| {
            host.strip_suffix(end.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with(['.', '-']))
        });
        found.map(|(_, provider)| provider.as_str())
    }

    /// The provider that a model's name gives away: the longest known start.
    pub(crate) fn provider_of_model(&self, model: &str) -> Option<&str> {
        let model = model.to_ascii_lowercase();
        let known = self.models.iter().filter(|(start, _)| model.starts_with(start.as_str()));
        known.max_by_key(|(start, _)| start.len()).map(|(_, provider)| provider.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Rules;

    /// Scenario: the built-in file is read. Guarantee: every name it lists is found, and no other.
    #[test]
    fn every_listed_name_is_found() {
        let rules = Rules::built_in();
        for (name, readings) in &rules.names {
            assert_eq!(rules.readings(name).len(), readings.len());
        }
        assert!(rules.readings(b"gen_ai.usage.input_token").is_empty());
        assert!(rules.readings(b"").is_empty());
        assert_eq!(rules.readings(b"model").len(), 2);
    }

    /// Scenario: every attribute that a column can stand in for. Guarantee: a rule reads it into that column.
    #[test]
    fn every_promoted_attribute_is_read_into_its_column() {
        let rules = Rules::built_in();
        for promoted in spanlake_schema::spans::PROMOTED {
            let readings = rules.readings(promoted.attribute.as_bytes());
            let into = readings.iter().find(|reading| reading.canonical);
            let into = into.unwrap_or_else(|| panic!("{} is not read", promoted.attribute));
            assert_eq!(rules.facts[usize::from(into.fact)].column, promoted.column);
        }
    }

    /// Scenario: spellings that real producers send. Guarantee: one provider, one name.
    #[test]
    fn providers_have_one_name() {
        let rules = Rules::built_in();
        for (told, known) in [
            ("OpenAI", "openai"),
            ("openai.chat", "openai"),
            ("Anthropic", "anthropic"),
            ("AWS", "aws.bedrock"),
            ("az.ai.openai", "azure.ai.openai"),
            ("my-own", "my-own"),
        ] {
            assert_eq!(rules.provider(told), known);
        }
        assert_eq!(rules.provider_of_host("eu.api.openai.com"), Some("openai"));
        assert_eq!(rules.provider_of_host("notapi.openai.com.evil"), None);
        assert_eq!(rules.provider_of_model("text-davinci-003"), Some("openai"));
        assert_eq!(rules.provider_of_model("toyota"), None);
    }
}
