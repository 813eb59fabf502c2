//! Facts into columns.

use std::io::Write;

use crate::rules::Rules;
use crate::span_columns::{SpanColumns, Target};
use crate::value::Attribute;

use super::convert::strings;
use super::{Fact, Facts};

impl<'a> Facts<'a> {
    /// Writes all facts to their columns, and notes in `held` the attributes that a column stands in for: the place in
    /// `spans::PROMOTED` plus one, by attribute.
    pub(crate) fn write(
        &self,
        rules: &Rules,
        columns: &mut SpanColumns,
        attributes: &[Attribute<'a>],
        held: &mut [u8],
    ) -> i64 {
        let row = columns.rows;
        let mut promoted = 0;
        for &place in &self.touched {
            let (rule, found) = (&rules.facts[usize::from(place)], &self.found[usize::from(place)]);
            let (Some(found), Some(target)) = (found, rule.target) else { continue };
            self.write_fact(columns, target, row, found.fact);
            if let Some(place) = rule.promoted
                && found.holds(rule.read_as, attributes)
            {
                held[found.attribute as usize] = place + 1;
                promoted |= 1i64 << place;
            }
        }
        promoted
    }

    fn write_fact(&self, columns: &mut SpanColumns, target: Target, row: usize, fact: Fact<'_>) {
        match (target, fact) {
            (Target::Text(at), Fact::Text(text)) => columns.texts[at].set(row, text),
            (Target::Text(at), Fact::Kept(start, end)) => columns.texts[at].set(row, self.kept(start, end)),
            (Target::Text(at), Fact::Int(number)) => columns.texts[at].set_with(row, |out| {
                // Writing into a vector cannot fail.
                let _ = write!(out, "{number}");
            }),
            (Target::Int(at), Fact::Int(number)) => columns.ints[at].set(row, number),
            (Target::Float(at), Fact::Float(number)) => columns.floats[at].set(row, number),
            (Target::Bool(at), Fact::Bool(told)) => columns.bools[at].set(row, told),
            (Target::Usd(at), Fact::Usd(usd)) => columns.usds[at].set(row, i128::from(usd)),
            (Target::List(at), Fact::List(items)) => {
                strings(items).for_each(|item| columns.lists[at].push_item(item));
                columns.lists[at].close(row);
            }
            (Target::List(at), Fact::ListText(text)) => write_list(columns, at, row, text),
            (Target::List(at), Fact::KeptList(start, end)) => write_list(columns, at, row, self.kept(start, end)),
            _ => {}
        }
    }
}

fn write_list(columns: &mut SpanColumns, at: usize, row: usize, text: &[u8]) {
    match serde_json::from_slice::<Vec<String>>(text) {
        Ok(items) => items.iter().for_each(|item| columns.lists[at].push_item(item.as_bytes())),
        Err(_) => columns.lists[at].push_item(text),
    }
    columns.lists[at].close(row);
}
