use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use super::{DEPTH_LIMIT, JsonError, traces_to_protobuf};

mod all_signals;
mod roundtrip;

fn read(body: impl AsRef<[u8]>) -> Result<ExportTraceServiceRequest, JsonError> {
    let protobuf = traces_to_protobuf(body.as_ref())?;
    Ok(ExportTraceServiceRequest::decode(protobuf.as_slice()).expect("the transcoder writes protobuf"))
}

fn span(fields: &str) -> Result<Span, JsonError> {
    let body = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{fields}]}}]}}]}}"#);
    let mut request = read(body)?;
    Ok(request.resource_spans.remove(0).scope_spans.remove(0).spans.remove(0))
}

fn any_value(json: &str) -> Result<Option<AnyValue>, JsonError> {
    let span = span(&format!(r#"{{"attributes":[{{"key":"k","value":{json}}}]}}"#))?;
    Ok(span.attributes.into_iter().next().expect("one attribute was sent").value)
}

fn value(json: &str) -> Option<Value> {
    any_value(json).expect("a good value").expect("a value").value
}

fn error(body: impl AsRef<[u8]>) -> String {
    read(body).expect_err("a bad body").to_string()
}

fn span_error(fields: &str) -> (String, String) {
    let error = span(fields).expect_err("a bad span");
    let path = error.path().replace("resourceSpans[0].scopeSpans[0].spans[0]", "S");
    (path, error.what().to_owned())
}

#[test]
fn hand_made_corner_cases_are_read() {
    let request = read(include_bytes!("../../tests/data/edge_json.traces.json")).unwrap();
    let spans = &request.resource_spans[0].scope_spans[0].spans;
    assert_eq!(spans.len(), 3);
    let id = [0x5b, 0x8e, 0xff, 0xf7, 0x98, 0x03, 0x81, 0x03, 0xd2, 0x69, 0xb6, 0x33, 0x81, 0x3f, 0xc6, 0x0c];
    assert!(spans.iter().all(|span| span.trace_id == id && span.start_time_unix_nano == 1_763_700_000_000_000_000));
    assert_eq!(spans[0].span_id, [0xee, 0xe1, 0x9b, 0x7e, 0xc3, 0xc1, 0xb1, 0x74]);
    assert_eq!(spans[1].parent_span_id, spans[0].span_id);
    assert!(spans[2].parent_span_id.is_empty());
    assert_eq!(spans[2].name, "empty parent, null lists, escaped surrogates \u{1f680}");
    assert_eq!((spans[0].kind, spans[1].kind), (3, 3));
    let codes: Vec<i32> = spans[..2].iter().map(|span| span.status.as_ref().unwrap().code).collect();
    assert_eq!(codes, [2, 2]);
    let values: Vec<_> = spans[0].attributes.iter().map(|it| it.value.as_ref().map(|it| it.value.as_ref())).collect();
    assert_eq!(values[0], Some(Some(&Value::IntValue(9_007_199_254_740_993))));
    assert_eq!(values[1], Some(Some(&Value::IntValue(17))));
    assert_eq!(values[2], Some(Some(&Value::BoolValue(true))));
    assert_eq!(values[3], Some(Some(&Value::DoubleValue(3.0))));
    assert!(matches!(values[4], Some(Some(Value::DoubleValue(nan))) if nan.is_nan()));
    assert_eq!(values[5], Some(Some(&Value::BytesValue(vec![0, 1, 255]))));
    assert!(matches!(values[6], Some(Some(Value::ArrayValue(array))) if array.values.len() == 2));
    assert!(matches!(values[7], Some(Some(Value::ArrayValue(array))) if array.values.is_empty()));
    assert!(matches!(values[8], Some(Some(Value::KvlistValue(list))) if list.values[0].key == "x"));
    assert_eq!(values[9..], [None, None]);
}

#[test]
fn a_body_of_a_real_exporter_is_read() {
    let request = read(include_bytes!("../../tests/data/openai_v2_json.traces.json")).unwrap();
    let spans: Vec<&Span> =
        request.resource_spans.iter().flat_map(|it| &it.scope_spans).flat_map(|it| &it.spans).collect();
    assert_eq!(spans.len(), 17);
    assert!(spans.iter().all(|span| span.trace_id.len() == 16 && span.span_id.len() == 8));
    let input_tokens: i64 = spans
        .iter()
        .flat_map(|span| &span.attributes)
        .filter(|attribute| attribute.key == "gen_ai.usage.input_tokens")
        .map(|attribute| match attribute.value.as_ref().and_then(|it| it.value.as_ref()) {
            Some(Value::IntValue(tokens)) => *tokens,
            other => panic!("input tokens are not an integer: {other:?}"),
        })
        .sum();
    let text = include_str!("../../tests/data/openai_v2_json.traces.json");
    let expected: i64 = text
        .split(r#""gen_ai.usage.input_tokens", "value": {"intValue": ""#)
        .skip(1)
        .map(|rest| rest[..rest.find('"').unwrap()].parse::<i64>().unwrap())
        .sum();
    assert!(input_tokens > 0);
    assert_eq!(input_tokens, expected);
}

#[test]
fn malformed_bodies_are_refused_with_their_place() {
    let error = |body: &[u8]| error(body);
    assert_eq!(
        error(include_bytes!("../../tests/data/malformed/array.traces.json")),
        "body: expected an object, found an array (line 1, column 1, byte 0)"
    );
    assert_eq!(
        error(include_bytes!("../../tests/data/malformed/badhex.traces.json")),
        "resourceSpans[0].scopeSpans[0].spans[0].traceId: not hexadecimal at character 1 (line 1, column 55, byte 54)"
    );
    assert_eq!(
        error(include_bytes!("../../tests/data/malformed/deepnest.traces.json")),
        "resourceSpans[0]: expected an object, found an array (line 1, column 19, byte 18)"
    );
    assert!(error(include_bytes!("../../tests/data/malformed/badutf8.traces.json")).starts_with("body: not UTF-8"));
    let truncated = error(include_bytes!("../../tests/data/malformed/truncated.traces.json"));
    assert!(truncated.ends_with("byte 700)"), "{truncated}");
    assert_eq!(error(b""), "body: expected an object, found the end of the body (line 1, column 1, byte 0)");
    assert_eq!(error(b"null"), "body: expected an object, found null (line 1, column 1, byte 0)");
    assert_eq!(error(b"{}\n {}"), "body: expected the end of the body, found an object (line 2, column 2, byte 4)");
    assert_eq!(error(b"<html>"), "body: expected an object, found `<` (line 1, column 1, byte 0)");
}

#[test]
fn every_truncation_of_a_body_is_refused() {
    let body = include_bytes!("../../tests/data/edge_json.traces.json");
    let whole = body.trim_ascii_end().len();
    for len in 0..whole {
        assert!(traces_to_protobuf(&body[..len]).is_err(), "cut after {len} bytes");
    }
}

#[test]
fn changed_bytes_never_panic() {
    let body = include_bytes!("../../tests/data/edge_json.traces.json");
    for at in 0..body.len() {
        for byte in [b'"', b'\\', b'{', b'}', b'[', b']', b',', b':', b'0', b'e', b'.', b'-', b'n', b'u', 0, 0x80] {
            let mut changed = body.to_vec();
            changed[at] = byte;
            if let Ok(protobuf) = traces_to_protobuf(&changed) {
                ExportTraceServiceRequest::decode(protobuf.as_slice()).expect("the transcoder writes protobuf");
            }
        }
    }
}

#[test]
fn unknown_fields_of_any_shape_are_skipped() {
    let span = span(
        r#"{"x":[{"y":[]},{},[[],[1,-2.5e+3]],"\"]}",true,false,null],"name":"n","z":{"a":{"b":[{}]},"c":"\u00e9"},"":0}"#,
    )
    .unwrap();
    assert_eq!(span, Span { name: "n".into(), ..Span::default() });
    for bad in ["[1 2]", "{1:2}", "{\"a\" 1}", "[1,]", "{\"a\":1,}", "tru", "nulll", "01", "1.", "-", "+1", ".5", "NaN"]
    {
        assert!(super::tests::span(&format!(r#"{{"x":{bad}}}"#)).is_err(), "{bad} is not JSON");
    }
}

#[test]
fn both_spellings_of_names_are_read_and_the_last_duplicate_counts() {
    let span = span(
        r#"{"trace_id":"01","traceId":"02","name":"a","events":[{"name":"e"}],"name":"b","kind":2,"events":[{"name":"f"},
            {"name":"g"}],"status":{"code":2,"message":"m"},"status":{"code":1},"kind":null,"links":[{}],"links":null}"#,
    )
    .unwrap();
    assert_eq!(span.trace_id, [2]);
    assert_eq!(span.name, "b");
    assert_eq!(span.kind, 0);
    let names: Vec<&str> = span.events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names, ["f", "g"]);
    let status = span.status.unwrap();
    assert_eq!((status.code, status.message.as_str()), (1, ""));
    assert!(span.links.is_empty());
}

#[test]
fn the_last_member_of_a_value_counts() {
    assert_eq!(value(r#"{"stringValue":"a","intValue":1}"#), Some(Value::IntValue(1)));
    assert_eq!(value(r#"{"stringValue":"a","intValue":null}"#), Some(Value::StringValue("a".into())));
    assert_eq!(value(r#"{"stringValue":"a","string_value":null}"#), None);
    let lists = value(r#"{"arrayValue":{"values":[{"intValue":1}]},"x":1,"arrayValue":{"values":[{"intValue":2}]}}"#);
    assert!(matches!(lists, Some(Value::ArrayValue(array)) if array.values.len() == 1));
    assert_eq!(any_value("null").unwrap(), None);
    assert_eq!(value("{}"), None);
    let with_null = value(r#"{"arrayValue":{"values":[null,{"stringValue":""}]}}"#);
    let expected = [AnyValue { value: None }, AnyValue { value: Some(Value::StringValue(String::new())) }];
    assert!(matches!(with_null, Some(Value::ArrayValue(array)) if array.values == expected));
}

#[test]
fn integers_are_read_exactly_in_every_form() {
    let good = [
        ("0", 0),
        ("-0", 0),
        ("\"-17\"", -17),
        ("5.0", 5),
        ("\"5.00\"", 5),
        ("1e3", 1000),
        ("1.5E+1", 15),
        ("1200e-2", 12),
        ("9223372036854775807", i64::MAX),
        ("\"-9223372036854775808\"", i64::MIN),
        ("9223372036854775.807e3", i64::MAX),
        ("0.0e99999999999999999999", 0),
        ("0.000001e6", 1),
    ];
    for (json, expected) in good {
        assert_eq!(value(&format!(r#"{{"intValue":{json}}}"#)), Some(Value::IntValue(expected)), "{json}");
    }
    let bad = [
        ("9223372036854775808", "out of range"),
        ("-9223372036854775809", "out of range"),
        ("1e19", "out of range"),
        ("1e99999999999999999999", "out of range"),
        ("0.5", "not a whole number"),
        ("1e-1", "not a whole number"),
        ("\"\"", "string is not a number"),
        ("\" 1\"", "string is not a number"),
        ("\"0x1\"", "string is not a number"),
        ("true", "expected a number, found a boolean"),
        ("{}", "expected a number, found an object"),
        ("1x", "not a number"),
    ];
    for (json, what) in bad {
        let error = any_value(&format!(r#"{{"intValue":{json}}}"#)).unwrap_err();
        assert_eq!(error.what(), what, "{json}");
        assert!(error.path().ends_with("spans[0].attributes[0].value.intValue"), "{error}");
    }
    assert_eq!(span(r#"{"endTimeUnixNano":"18446744073709551615"}"#).unwrap().end_time_unix_nano, u64::MAX);
    assert_eq!(span_error(r#"{"endTimeUnixNano":-1}"#), ("S.endTimeUnixNano".into(), "out of range".into()));
    assert_eq!(span(r#"{"flags":4294967295}"#).unwrap().flags, u32::MAX);
    assert_eq!(span_error(r#"{"flags":4294967296}"#).1, "out of range");
    assert_eq!(span(r#"{"droppedLinksCount":"7"}"#).unwrap().dropped_links_count, 7);
}

#[test]
fn doubles_may_be_numbers_or_strings() {
    let double = |json: &str| match value(&format!(r#"{{"doubleValue":{json}}}"#)) {
        Some(Value::DoubleValue(double)) => double,
        other => panic!("{json} is read as {other:?}"),
    };
    assert_eq!(double("-0.25e1"), -2.5);
    assert_eq!(double("\"1e-3\""), 0.001);
    assert_eq!(double("\"Infinity\""), f64::INFINITY);
    assert_eq!(double("\"-Infinity\""), f64::NEG_INFINITY);
    assert!(double("\"NaN\"").is_nan());
    for bad in ["1e400", "\"inf\"", "\"nan\"", "\"\"", "NaN", "null1"] {
        assert!(any_value(&format!(r#"{{"doubleValue":{bad}}}"#)).is_err(), "{bad} is not a double");
    }
}

#[test]
fn ids_are_hexadecimal_and_never_right_by_accident() {
    let id = |hex: &str| span(&format!(r#"{{"spanId":"{hex}"}}"#)).unwrap().span_id;
    assert_eq!(id("00fFA0b1c2d3e4f5"), [0x00, 0xff, 0xa0, 0xb1, 0xc2, 0xd3, 0xe4, 0xf5]);
    assert_eq!(id("\\u0030f"), [0x0f]);
    assert!(id("").is_empty());
    for digits in (1..64).filter(|digits| *digits != 16) {
        let length = id(&"a".repeat(digits)).len();
        assert!(length != 0 && length != 8, "{digits} digits give {length} bytes");
    }
    let bad = r#"{"traceId":"0123x5"}"#;
    assert_eq!(span_error(bad), ("S.traceId".into(), "not hexadecimal at character 5".into()));
    let in_link = r#"{"links":[{},{"spanId":"é"}]}"#;
    assert_eq!(span_error(in_link), ("S.links[1].spanId".into(), "not hexadecimal at character 1".into()));
    assert_eq!(span_error(r#"{"spanId":5}"#).1, "expected a string, found a number");
}

#[test]
fn base64_of_every_flavour_is_read() {
    for (text, expected) in [
        ("", vec![]),
        ("/+8=", vec![0xff, 0xef]),
        ("_-8", vec![0xff, 0xef]),
        ("_-8=", vec![0xff, 0xef]),
        ("AA==", vec![0]),
        ("AA", vec![0]),
        ("AAH/", vec![0, 1, 255]),
        ("AAH\\/", vec![0, 1, 255]),
    ] {
        assert_eq!(value(&format!(r#"{{"bytesValue":"{text}"}}"#)), Some(Value::BytesValue(expected)), "{text}");
    }
    for bad in ["A", "AAAAA", "A===", "AA=", "AAA==", "AA=A", "A A=", "ä=", "===="] {
        assert!(any_value(&format!(r#"{{"bytesValue":"{bad}"}}"#)).is_err(), "{bad} is not base64");
    }
}

#[test]
fn enums_may_be_numbers_or_names() {
    for (json, expected) in [
        ("3", 3),
        ("\"3\"", 3),
        ("\"SPAN_KIND_CLIENT\"", 3),
        ("\"CLIENT\"", 3),
        ("\"client\"", 3),
        ("-7", -7),
        ("99", 99),
    ] {
        assert_eq!(span(&format!(r#"{{"kind":{json}}}"#)).unwrap().kind, expected, "{json}");
    }
    let code = span(r#"{"status":{"code":"Error"}}"#).unwrap().status.unwrap().code;
    assert_eq!(code, 2);
    assert_eq!(span_error(r#"{"kind":"SPAN_KIND_"}"#), ("S.kind".into(), "unknown name".into()));
    assert_eq!(span_error(r#"{"kind":2147483648}"#).1, "out of range");
}

#[test]
fn escapes_are_undone_and_lone_surrogates_repaired() {
    let name = |json: &str| span(&format!(r#"{{"name":"{json}"}}"#)).map(|span| span.name);
    assert_eq!(name(r#"\"\\\/\b\f\n\r\t\u0000\u00E9é"#).unwrap(), "\"\\/\u{8}\u{c}\n\r\t\0éé");
    assert_eq!(name(r"\ud83d\ude80").unwrap(), "\u{1f680}");
    assert_eq!(name(r"\ud83d").unwrap(), "\u{fffd}");
    assert_eq!(name(r"a\ude80b").unwrap(), "a\u{fffd}b");
    assert_eq!(name(r"\ud83d\u0041").unwrap(), "\u{fffd}A");
    assert_eq!(name(r"\ud83d\ud83d\ude80").unwrap(), "\u{fffd}\u{1f680}");
    assert_eq!(name(r"\ud83d\n").unwrap(), "\u{fffd}\n");
    for bad in [r"\x", r"\u12", r"\u12g4", "\n", "\u{1}", r"\u+123"] {
        assert!(name(bad).is_err(), "{bad:?} is not a JSON string");
    }
    let span = span(r#"{"\u006eame":"escaped field name"}"#).unwrap();
    assert_eq!(span.name, "escaped field name");
}

#[test]
fn lengths_of_every_size_are_written() {
    for len in [0, 1, 100, 126, 127, 128, 129, 16_383, 16_384, 16_385, 2_097_151, 2_097_152] {
        let plain = "x".repeat(len);
        assert_eq!(span(&format!(r#"{{"name":"{plain}"}}"#)).unwrap().name, plain);
        let escaped = span(&format!(r#"{{"name":"\n{plain}","status":{{}}}}"#)).unwrap();
        assert_eq!(escaped.name.len(), len + 1);
        assert!(escaped.status.is_some());
    }
}

#[test]
fn nesting_is_bounded() {
    let unknown = |levels: usize| format!(r#"{{"x":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    assert!(read(unknown(DEPTH_LIMIT - 1)).is_ok());
    assert!(error(unknown(DEPTH_LIMIT)).contains("nested more than 128 levels deep"));
    assert!(error(unknown(1_000_000)).contains("nested more than 128 levels deep"));
    assert!(error("{\"x\":".repeat(1_000_000)).contains("nested more than 128 levels deep"));

    let nested = |levels: usize| {
        let open = r#"{"kvlistValue":{"values":[{"key":"k","value":"#.repeat(levels);
        any_value(&format!("{open}{{}}{}", "}]}}".repeat(levels)))
    };
    let mut inner = nested(29).unwrap().unwrap();
    let mut levels = 0;
    while let Some(Value::KvlistValue(mut list)) = inner.value {
        let KeyValue { value, .. } = list.values.remove(0);
        inner = value.unwrap();
        levels += 1;
    }
    assert_eq!(levels, 29);
    assert_eq!(nested(30).unwrap_err().what(), "nested more than 128 levels deep");
    assert!(nested(100_000).is_err());
}

#[test]
fn a_byte_order_mark_is_skipped_and_lines_are_counted() {
    assert!(read("\u{feff}{}").is_ok());
    let error = read("\u{feff}{\r\n  \"resourceSpans\": [\n    7]}").unwrap_err();
    assert_eq!((error.line(), error.column(), error.offset_bytes()), (3, 5, 31));
    assert_eq!(error.path(), "resourceSpans[0]");
}
