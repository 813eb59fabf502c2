//! Policy files: TOML into rules.

use std::sync::atomic::AtomicU64;

use regex::bytes::{Regex, RegexSet};
use serde::Deserialize;
use toml::Spanned;

use super::detect::{Finder, NAMES};
use super::{Action, Policy, RULES_MAX, Rule, VALUE_LIMIT_BYTES};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Key of the hashes.
    secret: Option<Spanned<String>>,
    value_limit_bytes: Option<Spanned<usize>>,
    keep: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    drop: Vec<Spanned<String>>,
    #[serde(default)]
    mask: Vec<Spanned<FileMask>>,
    #[serde(default)]
    hash: Vec<Spanned<FileHash>>,
    #[serde(default)]
    truncate: Vec<Spanned<FileTruncate>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileMask {
    attributes: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    detect: Vec<Spanned<String>>,
    pattern: Option<Spanned<String>>,
    with: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileHash {
    attributes: Vec<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTruncate {
    attributes: Option<Vec<Spanned<String>>>,
    bytes: Spanned<usize>,
}

/// Fewer characters could be tried out.
const SECRET_BYTES_MIN: usize = 16;

/// Shorter than this a value is its mark only.
const TRUNCATE_BYTES_MIN: usize = 16;

const MASK: &str = "[masked]";

pub(super) fn parse(path: &str, text: &str) -> Result<Policy, String> {
    let origin = Origin { path, text };
    let file: File = toml::from_str(text).map_err(|error| match error.span() {
        Some(span) => origin.problem(span.start, error.message()),
        None => format!("{path}: {}", error.message()),
    })?;
    let mut rules = Vec::new();
    if let Some(keep) = &file.keep {
        rules.push(rule("keep".to_owned(), Some(origin.names(keep)?), Action::Keep));
    }
    if !file.drop.is_empty() {
        rules.push(rule("drop".to_owned(), Some(origin.names(&file.drop)?), Action::Drop));
    }
    for hash in &file.hash {
        if file.secret.is_none() {
            return Err(origin.problem(hash.span().start, "a hash needs a key: give a `secret`"));
        }
        let names = &hash.get_ref().attributes;
        rules.push(rule(label("hash", names), Some(origin.names(names)?), Action::Hash));
    }
    for mask in &file.mask {
        rules.push(origin.mask(mask)?);
    }
    for truncate in &file.truncate {
        rules.push(origin.truncate(truncate.get_ref())?);
    }
    let limit = file.value_limit_bytes.as_ref().map_or(VALUE_LIMIT_BYTES, |limit| *limit.get_ref());
    if let Some(told) = file.value_limit_bytes.filter(|limit| *limit.get_ref() < TRUNCATE_BYTES_MIN) {
        return Err(origin.problem(told.span().start, "value_limit_bytes has to be 16 or more"));
    }
    if let Some(secret) = file.secret.as_ref().filter(|secret| secret.get_ref().len() < SECRET_BYTES_MIN) {
        return Err(origin.problem(secret.span().start, "the secret has to have 16 bytes or more"));
    }
    let mut policy = Policy::without_rules(limit);
    policy.is_limit_only = rules.is_empty();
    rules.append(&mut policy.rules);
    if rules.len() > RULES_MAX {
        return Err(format!("{path}: {} rules, at most {} are possible", rules.len() - 1, RULES_MAX - 1));
    }
    policy.secret = file.secret.map_or_else(Vec::new, |secret| secret.into_inner().into_bytes());
    Ok(Policy { rules, ..policy })
}

fn rule(label: String, names: Option<RegexSet>, action: Action) -> Rule {
    Rule { label, names, action, changed: AtomicU64::new(0) }
}

fn label(what: &str, names: &[Spanned<String>]) -> String {
    let names: Vec<&str> = names.iter().map(|name| name.get_ref().as_str()).collect();
    format!("{what} {}", names.join(", "))
}

struct Origin<'t> {
    path: &'t str,
    text: &'t str,
}

impl Origin<'_> {
    fn problem(&self, at: usize, what: &str) -> String {
        let line = self.text.as_bytes()[..at.min(self.text.len())].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("{}:{line}: {what}", self.path)
    }

    /// Names of attributes: exact ones, ones with `*` for anything, and `reg:` with a regular expression.
    fn names(&self, names: &[Spanned<String>]) -> Result<RegexSet, String> {
        let mut patterns = Vec::with_capacity(names.len());
        for name in names {
            let pattern = match name.get_ref().strip_prefix("reg:") {
                Some(pattern) => pattern.to_owned(),
                None => {
                    let parts: Vec<String> = name.get_ref().split('*').map(regex::escape).collect();
                    format!("(?s)^{}$", parts.join(".*"))
                }
            };
            self.pattern(&pattern, name.span().start)?;
            patterns.push(pattern);
        }
        let at = names.first().map_or(0, |name| name.span().start);
        RegexSet::new(patterns).map_err(|error| self.problem(at, &error.to_string()))
    }

    fn pattern(&self, pattern: &str, at: usize) -> Result<Regex, String> {
        Regex::new(pattern).map_err(|error| {
            // The last line says what is wrong; those before show where in the pattern.
            let error = error.to_string();
            let last = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
            self.problem(at, &format!("`{pattern}` is no regular expression: {last}"))
        })
    }

    fn mask(&self, mask: &Spanned<FileMask>) -> Result<Rule, String> {
        let FileMask { attributes, detect, pattern, with } = mask.get_ref();
        let mut find = Vec::new();
        for name in detect {
            let unknown =
                || self.problem(name.span().start, &format!("no detector `{}`: {}", name.get_ref(), NAMES.join(", ")));
            find.push(Finder::detector(name.get_ref()).ok_or_else(unknown)?);
        }
        if let Some(pattern) = pattern {
            find.push(Finder::Pattern(self.pattern(pattern.get_ref(), pattern.span().start)?));
        }
        if find.is_empty() && attributes.is_none() {
            let what = "a mask needs `attributes`, `detect` or `pattern`: this one would mask everything";
            return Err(self.problem(mask.span().start, what));
        }
        let names = attributes.as_deref().map(|names| self.names(names)).transpose()?;
        let mut words: Vec<&str> = detect.iter().map(|name| name.get_ref().as_str()).collect();
        words.extend(pattern.as_ref().map(|_| "pattern"));
        let label = match attributes {
            Some(names) if words.is_empty() => label("mask", names),
            Some(names) => label(&format!("mask {} in", words.join(", ")), names),
            None => format!("mask {}", words.join(", ")),
        };
        let with = with.as_deref().unwrap_or(MASK).as_bytes().to_vec();
        Ok(rule(label, names, Action::Mask { find, with }))
    }

    fn truncate(&self, truncate: &FileTruncate) -> Result<Rule, String> {
        let limit_bytes = *truncate.bytes.get_ref();
        if limit_bytes < TRUNCATE_BYTES_MIN {
            return Err(self.problem(truncate.bytes.span().start, "bytes has to be 16 or more"));
        }
        let names = truncate.attributes.as_deref().map(|names| self.names(names)).transpose()?;
        let label = match &truncate.attributes {
            Some(names) => label("truncate", names),
            None => format!("truncate to {limit_bytes} bytes"),
        };
        Ok(rule(label, names, Action::Truncate { limit_bytes }))
    }
}
