//! The list of attributes that a user wants to have in columns.

use std::collections::BTreeSet;

use regex::Regex;
use spanlake_schema::TableSpec;
use spanlake_schema::promotion::{COLUMNS_MAX, NAME_BYTES_MAX, column_name, is_same_column, standing_column};

/// What begins a pattern.
const PATTERN_PREFIX: &str = "reg:";

/// Attributes by name, and by patterns that their whole name fits.
#[derive(Clone, Debug, Default)]
pub struct PromotionList {
    entries: Vec<String>,
    names: BTreeSet<String>,
    patterns: Vec<Regex>,
}

impl PartialEq for PromotionList {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl Eq for PromotionList {}

impl PromotionList {
    /// Reads a list for a table: names of attributes, and patterns behind `reg:`.
    ///
    /// # Errors
    /// What is wrong with it, each naming its entry.
    pub fn parse(spec: &TableSpec, entries: &[String]) -> Result<Self, Vec<String>> {
        let (mut list, mut problems) = (Self::default(), Vec::new());
        for entry in entries {
            let added = if list.entries.contains(entry) {
                Err("stands there twice".to_owned())
            } else if let Some(pattern) = entry.strip_prefix(PATTERN_PREFIX) {
                whole(pattern).map(|pattern| list.patterns.push(pattern))
            } else {
                list.check_name(spec, entry).map(|()| list.names.extend([entry.clone()]))
            };
            match added {
                Ok(()) => list.entries.push(entry.clone()),
                Err(problem) => problems.push(format!("`{entry}` {problem}")),
            }
        }
        if list.names.len() > COLUMNS_MAX {
            problems.push(format!("{} attributes are named, {COLUMNS_MAX} can have columns", list.names.len()));
        }
        if problems.is_empty() { Ok(list) } else { Err(problems) }
    }

    fn check_name(&self, spec: &TableSpec, name: &str) -> Result<(), String> {
        if name.trim().is_empty() {
            return Err("is no name of an attribute".to_owned());
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(format!("has {} bytes, a name that is promoted at most {NAME_BYTES_MAX}", name.len()));
        }
        let column = column_name(name);
        if let Some(standing) = standing_column(spec, name) {
            return Err(match standing == column {
                true => format!("would be the column {column}, which is one of the table's own"),
                false => format!("stands in the column {standing} already"),
            });
        }
        match self.names.iter().find(|other| is_same_column(&column_name(other), &column)) {
            Some(other) => Err(format!("would be the same column as `{other}`: {column}")),
            None => Ok(()),
        }
    }

    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether an attribute is wanted.
    pub fn wants(&self, attribute: &str) -> bool {
        self.names.contains(attribute) || self.patterns.iter().any(|pattern| pattern.is_match(attribute))
    }

    /// Whether no other attributes can be wanted than those for which the test holds.
    pub(crate) fn is_covered_by(&self, has: impl Fn(&str) -> bool) -> bool {
        self.patterns.is_empty() && self.names.iter().all(|name| has(name))
    }
}

/// A pattern that has to fit the whole name.
fn whole(pattern: &str) -> Result<Regex, String> {
    if pattern.is_empty() {
        return Err("has no pattern behind reg:".to_owned());
    }
    // As it stands first, so that what is wrong is shown where the user wrote it, and so that a bracket too many closes nothing.
    Regex::new(pattern).and_then(|_| Regex::new(&format!(r"\A(?:{pattern})\z"))).map_err(|error| {
        // The first lines of a syntax error repeat the pattern and point into it.
        let message = error.to_string();
        let last = message.lines().last().unwrap_or_default();
        format!("is no pattern: {}", last.trim_start_matches("error: "))
    })
}

#[cfg(test)]
mod tests {
    use spanlake_schema::spans;

    use super::*;

    fn parse(entries: &[&str]) -> Result<PromotionList, String> {
        let entries: Vec<String> = entries.iter().map(|entry| (*entry).to_owned()).collect();
        PromotionList::parse(&spans::SPEC, &entries).map_err(|problems| problems.join("\n"))
    }

    #[test]
    fn names_are_exact_and_patterns_fit_whole_names() {
        let list = parse(&["customer.tier", "reg:tag\\.(a|b)", "reg:x|y"]).unwrap();
        for (attribute, wanted) in [
            ("customer.tier", true),
            ("customer.tiers", false),
            ("customer_tier", false),
            ("tag.a", true),
            ("tag.c", false),
            ("a.tag.a", false),
            ("tag.ab", false),
            ("x", true),
            ("xy", false),
        ] {
            assert_eq!(list.wants(attribute), wanted, "{attribute}");
        }
        assert!(!parse(&[]).unwrap().wants(""));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_entry() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for (entries, problem) in [
            (&["reg:a("][..], "`reg:a(` is no pattern: unclosed group"),
            (&["reg:a)|(b"], "`reg:a)|(b` is no pattern: unopened group"),
            (&["reg:"], "`reg:` has no pattern"),
            (&[""], "`` is no name"),
            (&["a", "b", "a"], "`a` stands there twice"),
            (&["customer.tier", "Customer_Tier"], "`Customer_Tier` would be the same column as `customer.tier`"),
            (&["model"], "`model` would be the column model, which is one of the table's own"),
            (&["gen_ai.request.model"], "`gen_ai.request.model` stands in the column request_model already"),
            (&[long.as_str()], "has 201 bytes"),
        ] {
            let told = parse(entries).unwrap_err();
            assert!(told.contains(problem), "{entries:?}: {told}");
        }
        let many: Vec<String> = (0..=COLUMNS_MAX).map(|number| format!("a.{number}")).collect();
        let told = PromotionList::parse(&spans::SPEC, &many).unwrap_err();
        assert_eq!(told, ["101 attributes are named, 100 can have columns"]);
    }
}
