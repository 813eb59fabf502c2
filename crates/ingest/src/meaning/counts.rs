//! Token counts as the columns mean them: input with its cached part, output with its reasoning part.

use spanlake_schema::flags::reading as flag;

use crate::reading::Facts;
use crate::rules::{Counts, Emitter};

use super::{Meaning, SpanFacts};

impl Meaning {
    fn emitter_counts(
        &self,
        span: &SpanFacts<'_, '_>,
        provider: Option<&str>,
        of: impl Fn(&Emitter) -> Option<Counts>,
    ) -> Option<Counts> {
        let emitters = span.emitters.iter().map(|&at| &self.rules.emitters[at]);
        let mut about = emitters.filter(|emitter| {
            let present = |name: &Vec<u8>| span.attributes.iter().any(|attribute| attribute.key == *name);
            emitter.is_about_provider(provider) && !emitter.unless.iter().any(present)
        });
        about.find_map(of)
    }

    /// `input_tokens` includes cached tokens. Where an emitter's count does not, they are added and the row says so.
    pub(super) fn settle_input(&self, span: &SpanFacts<'_, '_>, facts: &mut Facts<'_>, provider: Option<&str>) {
        let places = &self.places;
        let of = |place| facts.int(place).unwrap_or(0);
        let Some(cached) = of(places.cache_read_tokens).checked_add(of(places.cache_write_tokens)) else { return };
        let excludes = if facts.is_unknown(places.input_tokens) {
            facts.copy(places.uncached_input_tokens, places.input_tokens);
            true
        } else if cached == 0 {
            false
        } else {
            let (input, output) = (of(places.input_tokens), of(places.output_tokens));
            let total = facts.int(places.total_tokens);
            let adds_up_with = |part: i64| total == input.checked_add(output).and_then(|sum| sum.checked_add(part));
            let by_emitter = self.emitter_counts(span, provider, |emitter| emitter.input_cache);
            cached > input
                || match by_emitter {
                    Some(counts) => counts == Counts::Excludes,
                    None => total.is_some() && adds_up_with(cached),
                }
        };
        if excludes
            && cached > 0
            && let Some(all) = facts.int(places.input_tokens).and_then(|input| input.checked_add(cached))
        {
            facts.replace_int(places.input_tokens, all);
            facts.flag(flag::INPUT_EXCLUDED_CACHE);
        }
    }

    /// `output_tokens` includes reasoning tokens. Where an emitter's count does not, they are added and the row says so.
    pub(super) fn settle_output(&self, span: &SpanFacts<'_, '_>, facts: &mut Facts<'_>, provider: Option<&str>) {
        let places = &self.places;
        let reasoning = facts.int(places.reasoning_tokens).unwrap_or(0);
        let excludes = if facts.is_unknown(places.output_tokens) {
            facts.copy(places.visible_output_tokens, places.output_tokens);
            true
        } else if reasoning == 0 {
            false
        } else {
            let of = |place| facts.int(place).unwrap_or(0);
            let (input, output) = (of(places.input_tokens), of(places.output_tokens));
            let with_both = input.checked_add(output).and_then(|sum| sum.checked_add(reasoning));
            let by_emitter = self.emitter_counts(span, provider, |emitter| emitter.output_reasoning);
            reasoning > output
                || match by_emitter {
                    Some(counts) => counts == Counts::Excludes,
                    None => !facts.is_unknown(places.total_tokens) && facts.int(places.total_tokens) == with_both,
                }
        };
        if excludes
            && reasoning > 0
            && let Some(all) = facts.int(places.output_tokens).and_then(|output| output.checked_add(reasoning))
        {
            facts.replace_int(places.output_tokens, all);
            facts.flag(flag::OUTPUT_EXCLUDED_REASONING);
        }
    }
}
