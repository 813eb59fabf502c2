use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use spanlake_testkit::{arbitrary, arbitrary_logs, arbitrary_metrics, double, int, text};

use super::detect::Finder;
use super::{Policy, VALUE_LIMIT_BYTES};
use crate::signal::Signal;

fn policy(text: &str) -> Policy {
    Policy::parse("policy.toml", text).unwrap()
}

fn request(attributes: Vec<KeyValue>) -> ExportTraceServiceRequest {
    let spans = vec![Span { attributes, name: "call".to_owned(), ..Span::default() }];
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }] }
}

/// What a policy leaves of the attributes of one span.
fn left(policy: &Policy, attributes: Vec<KeyValue>) -> Vec<KeyValue> {
    let body = request(attributes).encode_to_vec();
    let body = policy.apply(Signal::Traces, &body).unwrap().unwrap_or(body);
    let mut request = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
    request.resource_spans[0].scope_spans[0].spans.remove(0).attributes
}

fn list(values: Vec<KeyValue>) -> Option<AnyValue> {
    Some(AnyValue { value: Some(Value::KvlistValue(KeyValueList { values })) })
}

/// Scenario: generated requests of all signals under a policy that finds nothing in them. Guarantee: they mean the same,
/// value for value.
#[test]
fn what_no_rule_matches_stays() {
    let policy =
        policy("drop = ['no.such.attribute']\n[[mask]]\npattern = 'no such text'\n[[truncate]]\nbytes = 1000000");
    for seed in 0..200 {
        for (signal, body) in [
            (Signal::Traces, arbitrary(seed).encode_to_vec()),
            (Signal::Logs, arbitrary_logs(seed).encode_to_vec()),
            (Signal::Metrics, arbitrary_metrics(seed).encode_to_vec()),
        ] {
            // Both write fields in the order of their numbers, or as they came.
            let rewritten = policy.apply(signal, &body).unwrap().unwrap();
            assert!(rewritten == body, "{signal:?}, seed {seed}");
        }
    }
    assert!(policy.counts().iter().all(|(_, count)| *count == 0), "{:?}", policy.counts());
}

/// Scenario: attributes of every kind, some of which rules name or find something in. Guarantee: those are changed as the
/// file says, the others stay, and each rule counts its own.
#[test]
fn rules_change_what_they_match_and_nothing_else() {
    let policy = policy(
        "secret = '0123456789abcdef'\ndrop = ['*.password', 'reg:^tmp\\d+$']\n\
         [[mask]]\ndetect = ['email', 'card']\n[[mask]]\nattributes = ['note']\nwith = '-'\n\
         [[hash]]\nattributes = ['user.id', 'account']\n[[truncate]]\nattributes = ['long']\nbytes = 20",
    );
    let nested = |id: KeyValue| KeyValue {
        key: "who".to_owned(),
        value: list(vec![id, text("db.password", "x"), text("kind", "human")]),
        ..KeyValue::default()
    };
    let found = left(
        &policy,
        vec![
            text("app.password", "hunter2"),
            text("tmp12", "x"),
            text("tmp", "stays"),
            text("prompt", "Ask ann@example.com, or pay with 4111 1111 1111 1111."),
            int("pan", 4_111_111_111_111_111),
            double("share", 0.25),
            int("note", 7),
            nested(text("account", "ann")),
            text("user.id", "ann"),
            text("long", "ääääääääääääääääääää"),
            text("last", "end"),
        ],
    );
    let hash = found.iter().find(|attribute| attribute.key == "user.id").cloned().unwrap();
    let Some(Value::StringValue(digits)) = hash.value.clone().unwrap().value else { panic!("{hash:?}") };
    assert!(digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()), "{digits}");
    let expected = vec![
        text("tmp", "stays"),
        text("prompt", "Ask [masked], or pay with [masked]."),
        text("pan", "[masked]"),
        double("share", 0.25),
        text("note", "-"),
        KeyValue {
            key: "who".to_owned(),
            value: list(vec![text("account", &digits), text("kind", "human")]),
            ..KeyValue::default()
        },
        hash,
        text("long", "ääääää…[cut]"),
        text("last", "end"),
    ];
    assert_eq!(found, expected);
    let counts: Vec<u64> = policy.counts().into_iter().map(|(_, count)| count).collect();
    assert_eq!(counts, [3, 2, 2, 1, 1, 0], "{:?}", policy.counts());
}

/// Scenario: the same value under two secrets. Guarantee: equal under one, different under the other.
#[test]
fn hashes_depend_on_the_secret() {
    let hash = |secret: &str| {
        left(&policy(&format!("secret = '{secret}'\n[[hash]]\nattributes = ['user']")), vec![text("user", "ann")])
    };
    assert_eq!(hash("0123456789abcdef"), hash("0123456789abcdef"));
    assert_ne!(hash("0123456789abcdef"), hash("0123456789abcdeg"));
}

/// Scenario: an allow-list. Guarantee: only named attributes stay, with all that is in their values.
#[test]
fn an_allow_list_keeps_what_it_names() {
    let value = list(vec![text("inner", "x")]);
    let kept = KeyValue { key: "app.tree".to_owned(), value, ..KeyValue::default() };
    let found =
        left(&policy("keep = ['gen_ai.*', 'app.tree']"), vec![kept.clone(), int("gen_ai.x", 1), int("other", 2)]);
    assert_eq!(found, [kept, int("gen_ai.x", 1)]);
}

/// Scenario: fields that OTLP does not know, and an id that is none. Guarantee: neither carries a secret through.
#[test]
fn no_way_around_the_rules() {
    let mut span = Span { trace_id: b"ann@example.com".to_vec(), ..Span::default() }.encode_to_vec();
    span.extend_from_slice(&[0xfa, 0x3e, 15]);
    span.extend_from_slice(b"bob@example.com");
    let wrap = |bytes: Vec<u8>, field: u8| [vec![field << 3 | 2, bytes.len() as u8], bytes].concat();
    let body = wrap(wrap(wrap(span, 2), 2), 1);
    let policy = policy("[[mask]]\ndetect = ['email']");
    let rewritten = policy.apply(Signal::Traces, &body).unwrap().unwrap();
    assert!(!rewritten.windows(8).any(|part| part == b"@example"), "{rewritten:?}");
}

/// Scenario: a value nested 3,000 deep with a secret at its end, and one nested as deep as is kept. Guarantee: no secret, no
/// overflow, and the shallow one stays.
#[test]
fn deep_values_are_cut_not_passed_on() {
    let nest = |depth: usize, inner: &str| {
        let mut value = AnyValue { value: Some(Value::StringValue(inner.to_owned())) };
        for _ in 0..depth {
            value = AnyValue { value: Some(Value::ArrayValue(ArrayValue { values: vec![value] })) };
        }
        // Encoding and dropping such a value are recursive in the generated code.
        let body = request(vec![KeyValue { key: "deep".to_owned(), value: Some(value), ..KeyValue::default() }]);
        body.encode_to_vec()
    };
    let policy = policy("[[mask]]\ndetect = ['email']");
    let deep = std::thread::Builder::new().stack_size(64 << 20).spawn(move || nest(3_000, "ann@example.com"));
    let rewritten = policy.apply(Signal::Traces, &deep.unwrap().join().unwrap()).unwrap().unwrap();
    assert!(!rewritten.windows(8).any(|part| part == b"@example"));
    let shallow = nest(30, "stays");
    assert_eq!(policy.apply(Signal::Traces, &shallow).unwrap().unwrap(), shallow);
}

/// Scenario: no policy. Guarantee: requests are not looked at, but for values beyond the limit.
#[test]
fn without_a_policy_only_huge_values_are_cut() {
    let none = Policy::default();
    let body = request(vec![text("prompt", "ann@example.com")]).encode_to_vec();
    assert!(none.apply(Signal::Traces, &body).unwrap().is_none());
    let found = left(&none, vec![text("huge", "x".repeat(VALUE_LIMIT_BYTES + 1)), text("fine", "y")]);
    let Some(Value::StringValue(huge)) = found[0].value.clone().unwrap().value else { panic!("no text") };
    assert!(huge.len() == VALUE_LIMIT_BYTES && huge.ends_with("x…[cut]"));
    assert_eq!(found[1], text("fine", "y"));
    assert_eq!(none.counts()[0].1, 1);
}

#[test]
fn detectors_find_their_own_and_leave_the_rest() {
    for (name, found) in [
        ("email", "ann.ohara@mail.example.co.uk"),
        ("email", "müller@bücher.example"),
        ("email", "ann%40example.com"),
        ("phone", "+49 (0)30 1234567"),
        ("phone", "+1 415-555-2671"),
        ("phone", "(415) 555-2671"),
        ("phone", "415-555-2671"),
        ("card", "4111 1111 1111 1111"),
        ("card", "378282246310005"),
        ("card", "5555-5555-5555-4444"),
        ("card", "6011111111111117"),
        ("api_key", "sk-proj-abcdefghijklmnopqrst"),
        ("api_key", "sk-ant-api03-abcdefghijklmnop-qrstuv"),
        ("api_key", "AKIAIOSFODNN7EXAMPLE"),
        ("api_key", "AIzaSyA1234567890abcdefghijklmnopqrstuv"),
        ("api_key", "ghp_abcdefghijklmnopqrstuvwxyz0123456789"),
        ("api_key", "hf_abcdefghijklmnopqrstuvwxyz"),
        ("api_key", "Bearer abcdefghijklmnop.qrstuvwxyz"),
    ] {
        let finder = Finder::detector(name).unwrap();
        let around = format!("is {found}, yes");
        let masked = finder.replace(around.as_bytes(), b"#").unwrap_or_else(|| panic!("{name}: {found}"));
        let masked = String::from_utf8(masked).unwrap();
        assert!(masked.starts_with("is ") && masked.ends_with(", yes") && masked.len() < 13, "{name}: {masked}");
    }
    for (name, other) in [
        ("email", "a @ b, user@localhost, @name"),
        ("phone", "1768467600000000000 and 2026-01-15 10:20:30, 10.0.0.1:8080, 3.1415926535"),
        ("card", "4111 1111 1111 1112, 1768467600000000000, 12345678901234567890"),
        ("api_key", "task-force, risk-averse-people-and-others, sk-short, hf_x"),
    ] {
        let finder = Finder::detector(name).unwrap();
        let masked = finder.replace(other.as_bytes(), b"#").map(|text| String::from_utf8(text).unwrap());
        assert_eq!(masked, None, "{name}");
    }
}

#[test]
fn wrong_files_are_refused_by_line() {
    for (text, part) in [
        ("keep = ['a']\nforbid = ['b']", "policy.toml:2: unknown field `forbid`"),
        ("\n[[mask]]\ndetect = ['iban']", "policy.toml:3: no detector `iban`: email, phone, card, api_key"),
        ("[[mask]]\npattern = '('", "policy.toml:2: `(` is no regular expression"),
        ("drop = ['a',\n 'reg:[']", "policy.toml:2: `[` is no regular expression"),
        ("[[mask]]\nwith = 'x'", "policy.toml:1: a mask needs"),
        ("[[hash]]\nattributes = ['a']", "policy.toml:1: a hash needs a key"),
        ("secret = 'short'", "policy.toml:1: the secret has to have 16 bytes"),
        ("[[truncate]]\nbytes = 3", "policy.toml:2: bytes has to be 16 or more"),
        ("value_limit_bytes = 1", "policy.toml:1: value_limit_bytes has to be 16"),
    ] {
        let error = Policy::parse("policy.toml", text).expect_err(text);
        assert!(error.starts_with(part), "{error}");
    }
}
