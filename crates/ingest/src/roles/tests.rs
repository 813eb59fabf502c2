use super::{Note, Role, Roles, Settled};
use crate::price::{Cost, PricedBy};
use crate::rules::Class;

struct Told {
    span: u64,
    parent: u64,
    scope: u64,
    models: [&'static str; 2],
    note: Note,
}

fn told(span: u64, parent: u64, class: Class, usage: Option<(i64, i64)>) -> Told {
    let note = Note {
        class,
        usage: usage.map(|(input, output)| (Some(input), Some(output))),
        start_unix_nano: 1_000 + span,
        end_unix_nano: 2_000 - span,
        cost: usage.map(|_| (Cost::Usd(1), PricedBy::BuiltIn)),
        ..Note::default()
    };
    Told { span, parent, scope: 1, models: ["gpt-4o", "gpt-4o-2024-08-06"], note }
}

/// The roles of these spans of one trace, by their place, whatever the order in which they come.
fn roles(spans: &[Told]) -> Vec<Role> {
    let mut agreed: Option<Vec<Role>> = None;
    for turn in 0..spans.len() * 2 {
        let mut order: Vec<usize> = (0..spans.len()).collect();
        order.rotate_left(turn % spans.len());
        if turn >= spans.len() {
            order.reverse();
        }
        let mut all = Roles::default();
        for &at in &order {
            let Told { span, parent, scope, models, note } = &spans[at];
            all.span(&[7; 16], &span.to_be_bytes(), &parent.to_be_bytes());
            all.note((0, at), &[7; 16], models.map(str::as_bytes), Note { scope: *scope, ..note.clone() });
        }
        let mut roles = vec![Role::None; spans.len()];
        all.calls.settle().iter().zip(&order).for_each(|(settled, &at)| roles[at] = settled.role);
        let known = agreed.get_or_insert_with(|| roles.clone());
        assert_eq!(*known, roles, "the order {order:?} changes the roles");
    }
    agreed.unwrap_or_default()
}

use Role::{Aggregate, Duplicate, Leaf, None as Nothing};

/// Scenario: an agent with the sum of its calls, a wrapper a call, the calls. Guarantee: the calls count.
#[test]
fn the_deepest_report_is_the_call() {
    let spans = [
        told(1, 0, Class::Part, Some((30, 12))),
        told(2, 1, Class::Call, Some((10, 5))),
        told(3, 2, Class::Call, Some((10, 5))),
        told(4, 1, Class::Call, Some((20, 7))),
        told(5, 1, Class::Part, None),
    ];
    assert_eq!(roles(&spans), [Aggregate, Aggregate, Leaf, Leaf, Nothing]);
}

/// Scenario: a wrapper knows the usage of a stream that tells none itself, after an attempt that failed. Guarantee: the
/// usage counts once, and the failed attempt stays a call.
#[test]
fn a_wrapper_stands_for_a_silent_stream() {
    let mut failed = told(3, 1, Class::Call, None);
    failed.note.failed = true;
    let spans = [told(1, 0, Class::Call, Some((10, 5))), told(2, 1, Class::Call, None), failed];
    assert_eq!(roles(&spans), [Leaf, Duplicate, Leaf]);
    let silent = [told(1, 0, Class::Call, None), told(2, 1, Class::Call, None)];
    assert_eq!(roles(&silent), [Aggregate, Leaf]);
}

/// Scenario: a call of another model within a call, as a guard makes it. Guarantee: both count.
#[test]
fn another_model_below_is_another_call() {
    let mut guard = told(2, 1, Class::Call, Some((3, 1)));
    guard.models = ["llama-guard", ""];
    assert_eq!(roles(&[told(1, 0, Class::Call, Some((10, 5))), guard]), [Leaf, Leaf]);
}

/// Scenario: a span that nothing is known of, with and without calls below. Guarantee: its usage counts where it is alone.
#[test]
fn an_unknown_span_counts_where_it_is_alone() {
    assert_eq!(roles(&[told(1, 0, Class::Unknown, Some((10, 5)))]), [Leaf]);
    let above = [told(1, 0, Class::Unknown, Some((10, 5))), told(2, 1, Class::Call, Some((4, 5)))];
    assert_eq!(roles(&above), [Aggregate, Leaf]);
    let mut named = told(1, 0, Class::Unknown, None);
    named.note.names_model = true;
    assert_eq!(roles(&[named, told(2, 1, Class::Call, Some((4, 5)))]), [Nothing, Leaf]);
}

/// Scenario: two instrumentations side by side, and two equal calls at once by one. Guarantee: a second report is one
/// call, two calls are two.
#[test]
fn a_second_instrumentation_is_not_a_second_call() {
    let mut second = told(3, 1, Class::Call, Some((10, 5)));
    second.scope = 2;
    let spans = [told(1, 0, Class::Part, None), told(2, 1, Class::Call, Some((10, 5))), second];
    assert_eq!(roles(&spans), [Nothing, Leaf, Duplicate]);
    let twice = [told(2, 1, Class::Call, Some((10, 5))), told(3, 1, Class::Call, Some((10, 5)))];
    assert_eq!(roles(&twice), [Leaf, Leaf]);
    // Two equal calls at once, each told twice.
    let mut four = [2, 3, 4, 5].map(|span| told(span, 1, Class::Call, Some((10, 5))));
    four[2].scope = 2;
    four[3].scope = 2;
    assert_eq!(roles(&four).iter().filter(|&&role| role == Leaf).count(), 2);
    let mut other = told(3, 1, Class::Call, Some((10, 5)));
    other.scope = 2;
    other.note.response_id = 9;
    let mut one = told(2, 1, Class::Call, Some((10, 5)));
    one.note.response_id = 8;
    assert_eq!(roles(&[one, other]), [Leaf, Leaf]);
}

/// Scenario: one answer told in two places of a trace. Guarantee: the one with usage is the call.
#[test]
fn one_answer_is_one_call() {
    let mut spans = [told(2, 1, Class::Call, None), told(3, 7, Class::Call, Some((10, 5)))];
    spans.iter_mut().for_each(|span| span.note.response_id = 5);
    assert_eq!(roles(&spans), [Duplicate, Leaf]);
}

/// Scenario: a span that is its own parent, and two that are each other's. Guarantee: an answer, and no endless walk.
#[test]
fn cycles_end() {
    let spans = [
        told(1, 1, Class::Call, Some((10, 5))),
        told(2, 3, Class::Call, Some((20, 5))),
        told(3, 2, Class::Part, Some((20, 5))),
    ];
    assert_eq!(roles(&spans), [Leaf, Leaf, Aggregate]);
}

/// Scenario: the same span told twice. Guarantee: the first counts.
#[test]
fn a_span_told_twice_counts_once() {
    let mut all = Roles::default();
    for row in 0..2 {
        let Told { note, .. } = told(1, 0, Class::Call, Some((10, 5)));
        all.span(&[7; 16], &1u64.to_be_bytes(), &[]);
        all.note((0, row), &[7; 16], [b"gpt-4o", b""], note);
    }
    let roles: Vec<Role> = all.calls.settle().iter().map(|settled| settled.role).collect();
    assert_eq!(roles, [Leaf, Duplicate]);
    assert_eq!(all.calls.tellings(&all.calls.by_id()), Some(vec![0, 1]));
}

/// Scenario: agents that tell as much as their calls, more, less, and one without calls. Guarantee: what is told beyond the
/// calls is shown, and nothing where nothing is below.
#[test]
fn what_a_wrapper_tells_beyond_its_calls_is_shown() {
    let unattributed = |agent: Option<(i64, i64)>, calls: &[(i64, i64)]| {
        let mut spans = vec![told(1, 0, Class::Part, agent), told(2, 1, Class::Part, None)];
        spans.extend((3..).zip(calls).map(|(span, usage)| told(span, 2, Class::Call, Some(*usage))));
        let mut all = Roles::default();
        for Told { span, parent, models, note, .. } in &spans {
            all.span(&[7; 16], &span.to_be_bytes(), &parent.to_be_bytes());
            if note.usage.is_some() {
                all.note((0, 0), &[7; 16], models.map(str::as_bytes), note.clone());
            }
        }
        let settled: Vec<Settled> = all.calls.settle();
        assert!(settled[1..].iter().all(|one| one.unattributed_tokens.is_none()));
        settled[0].unattributed_tokens
    };
    assert_eq!(unattributed(Some((30, 12)), &[(10, 5), (20, 7)]), None);
    assert_eq!(unattributed(Some((30, 12)), &[(10, 5)]), Some(27));
    assert_eq!(unattributed(Some((3, 1)), &[(10, 5)]), None);
    assert_eq!(unattributed(Some((30, 12)), &[]), None);
}
