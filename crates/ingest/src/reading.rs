//! A span's attributes and events read into facts by the rules, and facts written into columns.

mod convert;
mod json;
mod told;
mod write;

use std::cell::Cell;

use spanlake_schema::flags::reading as flag;

use crate::rules::{Document, Known, NameRule, ReadAs, Rules, Source};
use crate::span_columns::{SpanColumns, slot};
use crate::value::{Attribute, Value};
use convert::convert;

/// More tokens than any one call can have. A sum over the column must not overflow because one sender wrote nonsense:
/// nine million calls of this size still fit an Int64.
const TOKENS_MAX: i64 = 1_000_000_000_000;

/// A fact, read from an attribute, an event or a document.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fact<'a> {
    Text(&'a [u8]),
    /// Text that stands nowhere in the request as it is: a range of [`Facts::kept`].
    Kept(u32, u32),
    Int(i64),
    Float(f64),
    Bool(bool),
    /// An `ArrayValue` message of strings only.
    List(&'a [u8]),
    /// One string, or a JSON array of strings.
    ListText(&'a [u8]),
    /// A JSON array of strings: a range of [`Facts::kept`].
    KeptList(u32, u32),
    /// Units of 1e-12 US dollars; `DECIMAL(18,12)` fits.
    Usd(i64),
}

/// A fact and where it came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    rank: u32,
    dialect: u8,
    canonical: bool,
    pub(crate) source: Source,
    attribute: u32,
    pub(crate) fact: Fact<'a>,
}

/// One member of an indexed family.
#[derive(Clone, Copy, Debug)]
struct Member<'a> {
    rule: NameRule,
    number: u32,
    text: &'a [u8],
}

/// A span event, as far as rules ask for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventFields<'e, 'a> {
    pub(crate) name: &'a [u8],
    pub(crate) time_unix_nano: u64,
    pub(crate) attributes: &'e [Attribute<'a>],
}

/// The facts of one span.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    found: Vec<Option<Found<'a>>>,
    /// The places that were set since the last span: few of them all.
    touched: Vec<u8>,
    members: Vec<Member<'a>>,
    /// Documents among the attributes: their place in the rules, and the value.
    documents: Vec<(u8, Value<'a>, bool)>,
    kept: Vec<u8>,
    /// Bits of `reading_flags`.
    flags: Cell<i64>,
    /// Whether any of the facts tells of a model, an agent or a tool.
    is_genai: bool,
}

impl<'a> Facts<'a> {
    pub(crate) fn new(rules: &Rules) -> Self {
        Self {
            found: vec![None; rules.facts.len()],
            touched: Vec::with_capacity(rules.facts.len()),
            members: Vec::new(),
            documents: Vec::new(),
            kept: Vec::new(),
            flags: Cell::new(0),
            is_genai: false,
        }
    }

    /// Forgets the last span.
    #[inline]
    pub(crate) fn clear(&mut self) {
        for place in self.touched.drain(..) {
            self.found[usize::from(place)] = None;
        }
        self.members.clear();
        self.documents.clear();
        self.kept.clear();
        self.flags.set(0);
        self.is_genai = false;
    }

    /// Bits of `reading_flags`.
    pub(crate) fn flags(&self) -> i64 {
        self.flags.get()
    }

    /// Sets a bit of `reading_flags`.
    pub(crate) fn flag(&self, bit: i64) {
        self.flags.set(self.flags.get() | bit);
    }

    /// Reads an event of the span. `start_unix_nano` is the span's start.
    #[inline]
    pub(crate) fn read_event(&mut self, rules: &Rules, event: EventFields<'_, 'a>, start_unix_nano: u64) {
        let Some(rule) = rules.event(event.name) else { return };
        if let Some(first) = rule.first {
            let since = event.time_unix_nano.checked_sub(start_unix_nano).and_then(|ns| i64::try_from(ns).ok());
            if let Some(since) = since.filter(|_| start_unix_nano != 0)
                && self.int(usize::from(first.fact)).is_none_or(|known| since < known)
            {
                self.found[usize::from(first.fact)] = None;
                self.offer(rules, first, 0, Fact::Int(since));
            }
        }
        for says in &rule.says {
            self.offer(rules, NameRule { read_as: ReadAs::Present, ..*says }, 0, Fact::Bool(true));
        }
        for (index, attribute) in event.attributes.iter().enumerate() {
            for (key, reading) in &rule.read {
                if key == attribute.key {
                    self.consider_event(rules, *reading, index, attribute.value);
                }
            }
            if rule.carries_attributes
                && let Some(known) = rules.find(attribute.key)
            {
                self.read_attribute(rules, known, (index, attribute.value), true);
            }
        }
    }

    /// Lists gather what several events tell; anything else is told by the first.
    fn consider_event(&mut self, rules: &Rules, reading: NameRule, index: usize, value: Value<'a>) {
        if reading.read_as == ReadAs::TextList
            && let Value::String(text) = value
        {
            self.members.push(Member { rule: reading, number: self.members.len() as u32, text });
            return;
        }
        self.consider(rules, reading, index, value);
    }

    /// Reads what follows from all attributes of a span, after each of them and the events.
    pub(crate) fn read_together(&mut self, rules: &Rules, attributes: &[Attribute<'a>]) {
        if self.touched.is_empty() && self.documents.is_empty() && self.members.is_empty() {
            return;
        }
        self.gather_members(rules);
        self.drop_unaccompanied(rules, attributes);
        self.read_documents(rules, attributes);
    }

    /// Reads an attribute whose name the rules know.
    #[inline]
    pub(crate) fn read_attribute(
        &mut self,
        rules: &Rules,
        known: Known<'_>,
        (index, value): (usize, Value<'a>),
        in_event: bool,
    ) {
        let place = |reading: NameRule| match in_event {
            false => reading,
            true => NameRule {
                rank: reading.rank + crate::rules::RANK_EVENTS,
                canonical: false,
                source: Source::Event,
                ..reading
            },
        };
        match known {
            Known::Name(name) => {
                for reading in &name.readings {
                    self.consider(rules, place(*reading), index, value);
                }
                if let Some(document) = name.document {
                    self.documents.push((document, value, in_event));
                }
            }
            Known::Member(rule, number) => match value {
                Value::String(text) if rule.read_as == ReadAs::TextList => {
                    self.members.push(Member { rule: place(rule), number, text });
                }
                value => self.consider(rules, place(rule), index, value),
            },
        }
    }

    #[inline]
    fn consider(&mut self, rules: &Rules, reading: NameRule, attribute: usize, value: Value<'a>) {
        let Some(fact) = convert(reading.read_as, value) else {
            if !convert::is_nothing(value, reading.read_as) {
                self.flag(flag::TYPE_CONFLICT);
            }
            return;
        };
        let fact = match fact {
            // Some producers write all their attributes as JSON. A column that stands in for its attribute has it as it came.
            Fact::Text(text) if !reading.canonical => Fact::Text(convert::unquoted(text)),
            fact => fact,
        };
        self.offer(rules, reading, attribute, fact);
    }

    /// Takes a fact, unless a better one is known.
    #[inline]
    fn offer(&mut self, rules: &Rules, reading: NameRule, attribute: usize, fact: Fact<'a>) {
        if reading.read_as == ReadAs::Tokens && matches!(fact, Fact::Int(count) if count > TOKENS_MAX) {
            self.flag(flag::COUNT_IMPLAUSIBLE);
            return;
        }
        let place = usize::from(reading.fact);
        if let Some(known) = &self.found[place] {
            let is_attribute = reading.rank < crate::rules::RANK_DOCUMENTS && reading.read_as != ReadAs::Present;
            if known.rank == reading.rank && is_attribute {
                self.flag(flag::DUPLICATE_KEYS);
            }
            if known.rank <= reading.rank {
                return;
            }
        } else if !self.touched.contains(&reading.fact) {
            self.touched.push(reading.fact);
        }
        self.is_genai |= rules.facts[place].is_genai;
        let NameRule { rank, dialect, canonical, source, .. } = reading;
        self.found[place] = Some(Found { rank, dialect, canonical, source, attribute: attribute as u32, fact });
    }

    /// Makes lists of the members of families, in the order of their numbers.
    fn gather_members(&mut self, rules: &Rules) {
        if self.members.is_empty() {
            return;
        }
        let mut members = std::mem::take(&mut self.members);
        members.retain(|member| !member.text.is_empty());
        members.sort_by_key(|member| (member.rule.fact, member.rule.rank, member.number));
        for family in members.chunk_by(|a, b| (a.rule.fact, a.rule.rank) == (b.rule.fact, b.rule.rank)) {
            let items: Vec<_> = family.iter().map(|member| String::from_utf8_lossy(member.text)).collect();
            let fact = self.keep_list(&items);
            let rule = NameRule { canonical: false, ..family[0].rule };
            self.offer(rules, rule, 0, fact);
        }
        members.clear();
        self.members = members;
    }

    fn keep(&mut self, text: &[u8]) -> Fact<'a> {
        let start = self.kept.len() as u32;
        self.kept.extend_from_slice(text);
        Fact::Kept(start, self.kept.len() as u32)
    }

    fn keep_list<S: serde::Serialize>(&mut self, items: &[S]) -> Fact<'a> {
        let start = self.kept.len() as u32;
        // Writing strings into a vector cannot fail.
        let _ = serde_json::to_writer(&mut self.kept, items);
        Fact::KeptList(start, self.kept.len() as u32)
    }

    /// Forgets facts of dialects whose names are too common, unless an attribute beside them says it is a call.
    fn drop_unaccompanied(&mut self, rules: &Rules, attributes: &[Attribute<'a>]) {
        let accompanied = |dialect: u8| {
            let witnesses = &rules.dialects[usize::from(dialect)].only_with;
            witnesses.is_empty() || attributes.iter().any(|attribute| witnesses.iter().any(|key| key == attribute.key))
        };
        let mut dropped = false;
        for &place in &self.touched {
            let found = &mut self.found[usize::from(place)];
            if found.is_some_and(|fact| !accompanied(fact.dialect)) {
                *found = None;
                dropped = true;
            }
        }
        self.documents.retain(|(document, _, _)| accompanied(rules.documents[usize::from(*document)].dialect));
        if dropped {
            let told =
                |place: &u8| self.found[usize::from(*place)].is_some() && rules.facts[usize::from(*place)].is_genai;
            self.is_genai = self.touched.iter().any(told);
        }
    }

    /// Reads the documents that can tell what is not known yet, the preferred ones first.
    fn read_documents(&mut self, rules: &Rules, attributes: &[Attribute<'a>]) {
        if self.documents.is_empty() {
            return;
        }
        let mut documents = std::mem::take(&mut self.documents);
        documents.sort_by_key(|&(document, _, in_event)| (in_event, document));
        for &(index, value, in_event) in &documents {
            let document = &rules.documents[usize::from(index)];
            let wanted = document.facts.iter().any(|&fact| self.found[usize::from(fact)].is_none());
            if wanted {
                self.read_document(rules, (index, document), value, in_event);
            }
        }
        documents.clear();
        self.documents = documents;
        self.drop_unaccompanied(rules, attributes);
    }

    fn read_document(&mut self, rules: &Rules, (index, document): (u8, &Document), value: Value<'a>, in_event: bool) {
        if let (Some(key), Value::String(text)) = (&document.key, value)
            && key.find(text).is_none()
        {
            return;
        }
        let hits = match json::hits(&document.root, value) {
            Ok(hits) => hits,
            Err(json::NoDocument) => {
                if matches!(value, Value::String(text) if begins_like_json(text)) {
                    self.flag(flag::JSON_BROKEN);
                } else if document.always_json && !convert::is_nothing(value, ReadAs::Text) {
                    self.flag(flag::TYPE_CONFLICT);
                }
                return;
            }
        };
        let there = |leaves: &[u16]| hits.iter().any(|hit| leaves.contains(&hit.leaf));
        let holds = |shape: u8| {
            let condition = &document.shapes[usize::from(shape)];
            (condition.when.is_empty() || there(&condition.when)) && !there(&condition.unless)
        };
        for (at, hit) in hits.iter().enumerate() {
            let leaf = document.leaves[usize::from(hit.leaf)];
            let Some(fact) = leaf.fact.filter(|_| holds(leaf.shape)) else { continue };
            let read_as = rules.facts[usize::from(fact)].read_as;
            let reading = NameRule {
                fact,
                read_as,
                dialect: document.dialect,
                canonical: false,
                source: if in_event { Source::Event } else { document.source },
                rank: Rules::document_rank(index, leaf.order) + if in_event { crate::rules::RANK_EVENTS } else { 0 },
            };
            if read_as == ReadAs::TextList {
                // All items of one path make one list, told at its first.
                let of_path = |other: &&json::Hit| other.leaf == hit.leaf;
                if hits[..at].iter().any(|other| other.leaf == hit.leaf) {
                    continue;
                }
                let items: Vec<&str> = hits.iter().filter(of_path).filter_map(|hit| hit.scalar.text()).collect();
                if !items.is_empty() {
                    let fact = self.keep_list(&items);
                    self.offer(rules, reading, 0, fact);
                }
                continue;
            }
            match json::convert(read_as, &hit.scalar) {
                json::Converted::Fact(fact) => self.offer(rules, reading, 0, fact),
                json::Converted::Text(text) => {
                    let fact = self.keep(text.as_bytes());
                    self.offer(rules, reading, 0, fact);
                }
                json::Converted::Nothing => {}
                json::Converted::Conflict => self.flag(flag::TYPE_CONFLICT),
            }
        }
    }
}

impl Found<'_> {
    /// Whether the column holds the canonical attribute unchanged, so that the map need not.
    pub(crate) fn holds(&self, read_as: ReadAs, attributes: &[Attribute<'_>]) -> bool {
        if !self.canonical {
            return false;
        }
        let value = attributes[self.attribute as usize].value;
        match read_as {
            ReadAs::Text | ReadAs::Provider | ReadAs::Operation => matches!(value, Value::String(_)),
            ReadAs::Tokens | ReadAs::Int => matches!(value, Value::Int(_)),
            ReadAs::Float => matches!(value, Value::Double(_)),
            ReadAs::Bool => matches!(value, Value::Bool(_)),
            ReadAs::TextList => matches!(value, Value::Array(_)),
            _ => false,
        }
    }

    /// The attribute it was read from.
    pub(crate) fn attribute(&self) -> usize {
        self.attribute as usize
    }
}

/// Writes text into a column by its slot.
pub(crate) fn set_text(columns: &mut SpanColumns, at: usize, text: &[u8]) {
    let row = columns.rows;
    columns.texts[at].set(row, text);
}

pub(crate) const MODEL: usize = slot("model");

/// Whether a text begins as JSON of some structure does.
pub(crate) fn begins_like_json(text: &[u8]) -> bool {
    matches!(text.trim_ascii_start().first(), Some(b'{' | b'['))
}
