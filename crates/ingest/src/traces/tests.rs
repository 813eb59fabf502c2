use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Part, QUIET_NS, TraceOf, Traces, WINDOW_MICROS};
use crate::meaning::Meaning;
use crate::price::{Cost, PricedBy, Pricer};
use crate::roles::{Note, Role, Roles, Settled, Told};
use crate::rules::{Class, Rules};
use crate::span_columns::SpanColumns;
use spanlake_schema::corrections::{Correction, Value};

const NOW: u64 = 1_763_700_000_000_000_000;
const NOW_MICROS: i64 = (NOW / 1_000) as i64;

/// A span: trace, id, parent and usage; none for a span that tells of no call.
type Span = (u8, u64, u64, Option<i64>);

fn meaning() -> Arc<Meaning> {
    Arc::new(Meaning::new(Rules::built_in(), Arc::new(Pricer::new())))
}

fn told(spans: &[Span]) -> Told {
    let mut roles = Roles::default();
    let mut columns = SpanColumns::new(spans.len());
    for (row, (trace, span, parent, usage)) in spans.iter().enumerate() {
        roles.span(&[*trace; 16], &span.to_be_bytes(), &parent.to_be_bytes());
        columns.dates.push(20_000);
        columns.end_row();
        let Some(input) = usage else { continue };
        let note = Note {
            class: Class::Call,
            usage: Some((Some(*input), Some(1))),
            start_unix_nano: NOW + span,
            end_unix_nano: NOW + 1_000 - span,
            cost: Some((Cost::Usd(i128::from(*input)), PricedBy::BuiltIn)),
            ..Note::default()
        };
        roles.note((0, row), &[*trace; 16], [b"m", b""], note);
    }
    roles.write(&mut [columns], &Pricer::new()).1
}

/// The roles that corrections leave, by span.
fn roles(found: &[Correction]) -> BTreeMap<String, Option<String>> {
    let mut newest: BTreeMap<String, (i64, Option<String>)> = BTreeMap::new();
    for one in found {
        for (name, value) in one.changes.iter().filter(|(name, _)| name == "usage_role") {
            assert_eq!(name, "usage_role");
            let role = match value {
                Some(Value::Text(role)) => Some(role.clone()),
                _ => None,
            };
            let known = newest.entry(one.address.span_id.clone()).or_insert((one.revision, role.clone()));
            if known.0 < one.revision {
                *known = (one.revision, role);
            }
        }
    }
    newest.into_iter().map(|(span, (_, role))| (span, role)).collect()
}

fn one(span: u64, role: &str) -> BTreeMap<String, Option<String>> {
    [(format!("{span:016x}"), Some(role.to_owned()))].into()
}

/// Scenario: a wrapper and its call in different requests, a span that tells nothing between them in a third.
/// Guarantee: whatever comes first, the call counts and the wrapper does not, and its cost goes.
#[test]
fn a_wrapper_of_another_request_is_settled_in_every_order() {
    let spans: [Span; 3] = [(1, 10, 0, Some(5)), (1, 11, 10, None), (1, 12, 11, Some(5))];
    // The span between is known where it comes with or after the first call.
    for order in [[2, 1, 0], [0, 1, 2], [2, 0, 1], [0, 2, 1]] {
        let traces = Traces::new(meaning(), 1 << 20);
        let mut found = Vec::new();
        for (turn, at) in (0i64..).zip(order) {
            found.extend(traces.admit("default", told(&[spans[at]]), NOW_MICROS + turn, NOW));
        }
        assert_eq!(roles(&found), one(10, "aggregate"), "{order:?}");
        let last = found.last().expect("a correction");
        assert!(last.changes.contains(&("cost_usd".to_owned(), None)), "{order:?} {last:?}");
        assert_eq!(last.address.trace_id, "01".repeat(16));
    }
}

/// Scenario: the same span told again in another request, and the same trace id at another tenant. Guarantee: the second
/// telling is a duplicate at the row that came second; tenants do not meet.
#[test]
fn a_span_told_again_is_a_duplicate_within_its_tenant() {
    let traces = Traces::new(meaning(), 1 << 20);
    assert!(traces.admit("default", told(&[(1, 10, 0, Some(5))]), NOW_MICROS, NOW).is_empty());
    assert!(traces.admit("other", told(&[(1, 10, 0, Some(5))]), NOW_MICROS + 1, NOW).is_empty());
    let found = traces.admit("default", told(&[(1, 10, 0, Some(5))]), NOW_MICROS + 2, NOW);
    assert_eq!(roles(&found), one(10, "duplicate"));
    assert_eq!(found[0].address.received_micros, NOW_MICROS + 2);
    assert!(found[0].changes.iter().all(|(name, _)| name == "usage_role"), "a duplicate keeps its cost: {found:?}");
}

/// Scenario: requests without calls, of traces that are known and of others. Guarantee: only the former take memory.
#[test]
fn spans_of_traces_without_calls_are_not_kept() {
    let traces = Traces::new(meaning(), 1 << 20);
    traces.admit("default", told(&[(1, 10, 0, None)]), NOW_MICROS, NOW);
    assert_eq!(traces.stats().0, 0);
    traces.admit("default", told(&[(2, 10, 0, Some(5))]), NOW_MICROS, NOW);
    let bytes = traces.stats().0;
    traces.admit("default", told(&[(1, 11, 10, None), (3, 12, 0, None)]), NOW_MICROS, NOW);
    assert_eq!(traces.stats().0, bytes);
    traces.admit("default", told(&[(1, 11, 10, None), (2, 12, 10, None)]), NOW_MICROS, NOW);
    assert!(traces.stats().0 > bytes);
}

/// Scenario: many traces over a small memory, then more of a forgotten one, then of one that is too old. Guarantee: memory
/// is bounded, what was forgotten for want of it is to be read back, once, and what is too old is gone.
#[test]
fn what_is_forgotten_too_early_is_read_back() {
    let traces = Traces::new(meaning(), 16 << 10);
    for trace in 1..=200 {
        traces.admit("default", told(&[(trace, 10, 0, Some(5))]), NOW_MICROS + i64::from(trace), NOW);
        assert!(traces.stats().0 <= 16 << 10);
    }
    assert!(traces.take_doubtful(NOW).is_empty());
    traces.admit("default", told(&[(1, 11, 10, Some(5)), (200, 11, 10, Some(5))]), NOW_MICROS + 300, NOW);
    let doubtful = traces.take_doubtful(NOW);
    assert_eq!(doubtful.iter().map(|one| one.trace_id.as_str()).collect::<Vec<_>>(), ["01".repeat(16)]);
    assert!(traces.take_doubtful(NOW).is_empty());
    traces.admit("default", told(&[(201, 10, 0, Some(5))]), NOW_MICROS + 301 + WINDOW_MICROS, NOW);
    assert_eq!(traces.state.lock().parts.len(), 1);
}

/// Scenario: the span between a wrapper and its call came first, when nothing was known of its trace. Guarantee: the trace is
/// read back once it is quiet, and settled then; one whose calls hang together, or have one unknown span above, is not.
#[test]
fn a_trace_with_a_span_missing_between_its_calls_is_read_back() {
    let traces = Traces::new(meaning(), 1 << 20);
    for spans in [&[(1, 11, 10, None)][..], &[(1, 12, 11, Some(5)), (1, 10, 0, Some(5))]] {
        assert!(traces.admit("default", told(spans), NOW_MICROS, NOW).is_empty());
    }
    traces.admit("default", told(&[(2, 12, 11, Some(5)), (2, 13, 11, Some(6))]), NOW_MICROS, NOW);
    traces.admit("default", told(&[(3, 12, 10, Some(5)), (3, 10, 0, Some(5))]), NOW_MICROS, NOW);
    assert!(traces.take_doubtful(NOW).is_empty());
    let torn = traces.take_doubtful(NOW + QUIET_NS);
    assert_eq!(torn.iter().map(|one| one.trace_id.as_str()).collect::<Vec<_>>(), ["01".repeat(16)]);

    let mut again = told(&[(1, 11, 10, None), (1, 12, 11, Some(5)), (1, 10, 0, Some(5))]);
    again.rows.iter_mut().for_each(|row| row.settled = Settled { role: Role::Leaf, unattributed_tokens: None });
    again.sort_by_trace();
    let found = traces.recall(Part::told("default", again, NOW_MICROS), NOW);
    assert_eq!(roles(&found), one(10, "aggregate"));
    assert!(traces.take_doubtful(NOW + 2 * QUIET_NS).is_empty());
}

/// Scenario: a trace is forgotten since its rows are read otherwise by now, told again, and what was told first expires.
/// Guarantee: what was told again is still known, and what was told first counts no more.
#[test]
fn a_forgotten_trace_can_be_told_again() {
    let traces = Traces::new(meaning(), 1 << 20);
    traces.admit("default", told(&[(1, 11, 10, Some(7))]), NOW_MICROS, NOW);
    traces.forget(&[TraceOf { tenant: "default".to_owned(), trace_id: "01".repeat(16) }]);
    traces.admit("default", told(&[(1, 11, 10, Some(5))]), NOW_MICROS + 10, NOW);
    traces.admit("default", told(&[(2, 11, 10, Some(5))]), NOW_MICROS + 5 + WINDOW_MICROS, NOW);
    assert_eq!(traces.state.lock().parts.len(), 2, "what was told first has expired");
    let found = traces.admit("default", told(&[(1, 10, 0, Some(5))]), NOW_MICROS + 6 + WINDOW_MICROS, NOW);
    assert_eq!(roles(&found), one(10, "aggregate"));
}
