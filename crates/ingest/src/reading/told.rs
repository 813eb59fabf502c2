//! What the facts of a span tell.

use std::borrow::Cow;

use super::{Fact, Facts, Found};
use crate::rules::{FactIndex, Rules};

impl<'a> Facts<'a> {
    /// Whether nothing told any fact.
    pub(crate) fn is_empty(&self) -> bool {
        self.touched.iter().all(|&place| self.found[usize::from(place)].is_none())
    }

    /// Whether anything told of a model, an agent or a tool.
    #[inline]
    pub(crate) fn is_genai(&self) -> bool {
        self.is_genai
    }

    /// Whether nothing told a fact.
    pub(crate) fn is_unknown(&self, place: FactIndex) -> bool {
        self.found[place].is_none()
    }

    /// A fact and where it came from.
    pub(crate) fn found(&self, place: FactIndex) -> Option<&Found<'a>> {
        self.found[place].as_ref()
    }

    #[inline]
    pub(crate) fn text(&self, place: FactIndex) -> Option<&[u8]> {
        match self.found[place]?.fact {
            Fact::Text(text) => Some(text),
            Fact::Kept(start, end) => Some(self.kept(start, end)),
            _ => None,
        }
    }

    /// Text that outlives these facts.
    #[inline]
    pub(crate) fn any_text(&self, place: FactIndex) -> Option<Cow<'a, [u8]>> {
        match self.found[place]?.fact {
            Fact::Text(text) => Some(Cow::Borrowed(text)),
            Fact::Kept(start, end) => Some(Cow::Owned(self.kept(start, end).to_vec())),
            _ => None,
        }
    }

    /// Text that is UTF-8 and outlives these facts.
    pub(crate) fn any_str(&self, place: FactIndex) -> Option<Cow<'a, str>> {
        match self.any_text(place)? {
            Cow::Borrowed(text) => std::str::from_utf8(text).ok().map(Cow::Borrowed),
            Cow::Owned(text) => String::from_utf8(text).ok().map(Cow::Owned),
        }
    }

    /// Text that is UTF-8.
    pub(crate) fn str(&self, place: FactIndex) -> Option<&str> {
        self.text(place).and_then(|text| std::str::from_utf8(text).ok())
    }

    pub(super) fn kept(&self, start: u32, end: u32) -> &[u8] {
        &self.kept[start as usize..end as usize]
    }

    #[inline]
    pub(crate) fn int(&self, place: FactIndex) -> Option<i64> {
        match self.found[place]?.fact {
            Fact::Int(number) => Some(number),
            _ => None,
        }
    }

    pub(crate) fn bool(&self, place: FactIndex) -> Option<bool> {
        match self.found[place]?.fact {
            Fact::Bool(told) => Some(told),
            _ => None,
        }
    }

    /// Replaces a number; its column then no longer stands in for the attribute.
    pub(crate) fn replace_int(&mut self, place: FactIndex, number: i64) {
        if let Some(found) = &mut self.found[place] {
            found.fact = Fact::Int(number);
            found.canonical = false;
        }
    }

    /// Gives one fact to another that nothing told.
    pub(crate) fn copy(&mut self, from: FactIndex, to: FactIndex) {
        if self.found[to].is_none()
            && let Some(found) = self.found[from]
        {
            if !self.touched.contains(&(to as u8)) {
                self.touched.push(to as u8);
            }
            self.found[to] = Some(Found { canonical: false, ..found });
        }
    }

    /// Takes a fact out, to be written otherwise.
    pub(crate) fn take(&mut self, place: FactIndex) -> Option<Found<'a>> {
        self.found[place].take()
    }

    /// The dialect that told the first of these facts that is known.
    pub(crate) fn dialect<'r>(&self, rules: &'r Rules, telling: &[FactIndex]) -> Option<&'r str> {
        let found = telling.iter().find_map(|&place| self.found[place])?;
        Some(&rules.dialects[usize::from(found.dialect)].name)
    }
}
