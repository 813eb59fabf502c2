//! What of a request may be stored: attributes kept, dropped, masked, hashed or cut, as a file of the user's says.
//!
//! A request is rewritten, protobuf to protobuf, in one pass over its bytes, before it becomes a frame of the log and before
//! anything is read from it. So no file ever holds what a policy took away: not the log, not what is spilled, set aside
//! or committed. Fields that OTLP does not know are left out, since nobody could say what is in them.
//!
//! ```text
//! body ── file.rs (which rules, by name) ── rewrite.rs (fields, by json/schema.rs) ── detect.rs (what to find) ──► body
//! ```
//!
//! Rules that name attributes apply to those, and to members of their values; members of key-value lists are named by their
//! own key. A mask without names applies to every text: names of spans, events and metrics, messages, keys, bodies of
//! logs, resources and scopes. Of several rules all apply, in the order keep, drop, hash, mask, truncate.
//!
//! The rewritten request is what counts from then on: its bytes are those of the ledger, and a repeat is known by them for as
//! long as the policy stays the same.
//!
//! Without a policy nothing is looked at, except that in requests beyond [`VALUE_LIMIT_BYTES`] single values are held to it.

mod detect;
mod file;
mod rewrite;
#[cfg(test)]
mod tests;

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use regex::bytes::RegexSet;

use crate::signal::Signal;
use crate::wire::WireError;
use detect::Finder;

/// Most bytes of a single value, where a policy says nothing else: longer ones are cut, with a mark.
pub const VALUE_LIMIT_BYTES: usize = 16 << 20;

/// What happens to a value.
#[derive(Debug)]
enum Action {
    /// Attributes that no pattern names are dropped.
    Keep,
    Drop,
    /// What is found, or the whole value where nothing is to be found in it, is replaced.
    Mask {
        find: Vec<Finder>,
        with: Vec<u8>,
    },
    /// The value becomes its keyed SHA-256, 32 hexadecimal digits of it.
    Hash,
    Truncate {
        limit_bytes: usize,
    },
}

#[derive(Debug)]
struct Rule {
    /// For people: `mask email, card`.
    label: String,
    /// The attributes it names; `None` for all there is.
    names: Option<RegexSet>,
    action: Action,
    /// Values that it changed or dropped.
    changed: AtomicU64,
}

/// Rules a policy may have: one bit each.
const RULES_MAX: usize = 64;

/// What of a request may be stored.
#[derive(Debug)]
pub struct Policy {
    rules: Vec<Rule>,
    secret: Vec<u8>,
    value_limit_bytes: usize,
    /// Whether there is nothing but the limit.
    is_limit_only: bool,
}

/// What a policy did to one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where it stands: `resource_spans[0].scope_spans[0].spans[2].attributes[1] user.email`.
    pub place: String,
    /// The rules that changed it.
    pub rules: String,
    /// What it was.
    pub before: String,
    /// What it is; `None` where it was dropped.
    pub after: Option<String>,
}

impl Default for Policy {
    fn default() -> Self {
        Self::without_rules(VALUE_LIMIT_BYTES)
    }
}

impl Policy {
    fn without_rules(value_limit_bytes: usize) -> Self {
        let limit = Rule {
            label: "value_limit_bytes".to_owned(),
            names: None,
            action: Action::Truncate { limit_bytes: value_limit_bytes },
            changed: AtomicU64::new(0),
        };
        Self { rules: vec![limit], secret: Vec::new(), value_limit_bytes, is_limit_only: true }
    }

    /// Reads a policy file: its path, for messages, and its text.
    ///
    /// # Errors
    /// What is wrong, with the file and the line.
    pub fn parse(path: &str, text: &str) -> Result<Self, String> {
        file::parse(path, text)
    }

    /// The request as it may be stored; `None` where it may be stored as it is. `body` is the protobuf form.
    pub(crate) fn apply(&self, signal: Signal, body: &[u8]) -> Result<Option<Vec<u8>>, WireError> {
        if self.is_limit_only && body.len() <= self.value_limit_bytes {
            return Ok(None);
        }
        let (out, _) = rewrite::rewrite(self, signal, body, false)?;
        Ok(Some(out))
    }

    /// The request as it would be stored, and what was changed in it. Counts nothing.
    ///
    /// # Errors
    /// Where `body` is no request of the signal in protobuf form.
    pub fn show(&self, signal: Signal, body: &[u8]) -> Result<(Vec<u8>, Vec<Change>), String> {
        rewrite::rewrite(self, signal, body, true).map_err(|error| error.to_string())
    }

    /// Each rule, in order, and how many values it changed or dropped since the start.
    pub fn counts(&self) -> Vec<(String, u64)> {
        self.rules.iter().map(|rule| (rule.label.clone(), rule.changed.load(Relaxed))).collect()
    }

    /// The rules that name a key, as bits.
    fn named(&self, key: &[u8]) -> u64 {
        let names = |rule: &Rule| rule.names.as_ref().is_some_and(|names| names.is_match(key));
        self.bits(names)
    }

    /// The rules that apply to everything, as bits.
    fn everywhere(&self) -> u64 {
        self.bits(|rule| rule.names.is_none())
    }

    fn bits(&self, applies: impl Fn(&Rule) -> bool) -> u64 {
        let set = self.rules.iter().enumerate().filter(|(_, rule)| applies(rule));
        set.fold(0, |bits, (at, _)| bits | 1 << at)
    }
}
