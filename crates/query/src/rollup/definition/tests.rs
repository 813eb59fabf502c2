use arrow::datatypes::Field;
use spanlake_schema::model_usage::HOUR_SPEC;

use super::*;
use crate::QueryErrorKind;

const FILE: &str = "sql/rollups/model_usage_hour.sql";

fn built_in() -> Definition {
    let (file, text) = BUILT_IN[0];
    Definition::parse(file, text).expect("the built-in rollup is right")
}

/// The built-in file with one piece of text replaced.
fn altered(from: &str, to: &str) -> String {
    let (_, text) = BUILT_IN[0];
    assert!(text.contains(from), "{from:?} is not in the file");
    text.replacen(from, to, 1)
}

fn refusal(text: &str) -> String {
    let error = Definition::parse(FILE, text).expect_err("the file is wrong");
    assert_eq!(error.kind, QueryErrorKind::Invalid);
    error.message
}

#[test]
fn the_built_in_rollup_is_read() {
    let definition = built_in();
    assert_eq!(definition.name, "model_usage_hour");
    assert_eq!(definition.source.name, "spans");
    assert_eq!(definition.target.name, "model_usage_hour");
    assert_eq!(definition.schedule, "every 1m");
    assert_eq!(definition.every, Duration::from_secs(60));
    assert_eq!(definition.window_micros, 3_600_000_000);
    assert_eq!(definition.keys, ["service_name", "provider", "model", "operation", "environment", "status"]);
}

#[test]
fn every_header_mistake_names_file_and_line() {
    let cases = [
        (
            "-- name: model_usage_hour",
            "-- name: other",
            "1:1: name other differs from the file's name model_usage_hour",
        ),
        ("-- source: spans\n", "", "1:1: the header has no key source"),
        ("-- source: spans", "-- source: spam", "2:1: source spam is no known table"),
        (
            "-- source: spans",
            "-- sauce: spans",
            "2:1: header key \"sauce\" is none of name, source, schedule, window, keys",
        ),
        ("-- source: spans", "-- source: spans\n-- source: spans", "3:1: header key source stands on line 2 too"),
        ("-- source: spans", "-- source:", "2:1: header key source has no value"),
        ("-- source: spans", "-- source spans", "2:1: a header line is `-- key: value`; prose follows a line `--`"),
        ("every 1m", "every 0m", "3:1: schedule \"every 0m\" is not like `every 1m`"),
        ("every 1m", "1m", "3:1: schedule \"1m\" is not like `every 1m`"),
        ("every 1m", "every 60", "3:1: schedule \"every 60\" is not like `every 1m`"),
        ("window: 1h", "window: 0h", "4:1: window \"0h\" is no duration, such as 1h, that divides a day"),
        ("window: 1h", "window: 7h", "4:1: window \"7h\" is no duration, such as 1h, that divides a day"),
        ("window: 1h", "window: 2d", "4:1: window \"2d\" is no duration, such as 1h, that divides a day"),
        ("provider, model,", "provider, modal,", "5:1: key \"modal\" is no key column of table model_usage_hour"),
        ("provider, model,", "provider, provider,", "5:1: key provider stands twice"),
        ("provider, model,", "provider, revision,", "5:1: key \"revision\" is no key column of table model_usage_hour"),
    ];
    for (from, to, expected) in cases {
        assert_eq!(refusal(&altered(from, to)), format!("{FILE}:{expected}"));
    }
    assert_eq!(refusal("-- name: model_usage_hour\n--\n"), format!("{FILE}:2:1: the file ends before its select"));
    assert_eq!(refusal(""), format!("{FILE}:1:1: the file ends before its select"));
}

#[test]
fn a_mistake_in_the_select_names_line_and_column() {
    let line_of = |needle: &str| {
        let (_, text) = BUILT_IN[0];
        text.lines().position(|line| line.contains(needle)).expect("the line is there") + 1
    };
    let message = refusal(&altered("count(*) AS requests,", "count(* AS requests,"));
    assert!(message.starts_with(&format!("{FILE}:{}:", line_of("AS requests"))), "{message}");

    let message = refusal(&altered("start_time < $window_end)", "start_time < $window_stop)"));
    let expected = format!("{FILE}:{}:", line_of("start_time < $window_end"));
    assert!(message.starts_with(&expected), "{message}");
    assert!(message.contains("parameter $window_stop is none of"), "{message}");
}

#[test]
fn what_is_no_select_over_the_source_is_refused() {
    let at_select = |rest: &str| format!("{FILE}:7:1: {rest}");
    let with = |select: &str| {
        let header =
            "-- name: model_usage_hour\n-- source: spans\n-- schedule: every 1m\n-- window: 1h\n-- keys: model\n--\n";
        refusal(&format!("{header}{select}"))
    };
    let bounds = "WHERE start_time >= $window_start AND start_time < $window_end";
    assert_eq!(
        with("SELECT 1 FROM spans WHERE start_time < $window_end"),
        at_select("the select never uses $window_start")
    );
    assert_eq!(with(&format!("SELECT 1 FROM logs {bounds}")), at_select("the select reads logs, its source is spans"));
    assert_eq!(
        with(&format!("SELECT 1 FROM spans, other.spans {bounds}")),
        at_select("the select reads other.spans, its source is spans")
    );
    assert_eq!(with("SELECT $window_start, $window_end"), at_select("the select never reads spans"));
    assert_eq!(
        with(&format!("SELECT 1 FROM spans {bounds}; SELECT 2 FROM spans")),
        at_select("a rollup is exactly one select")
    );
    assert_eq!(with(&format!("DELETE FROM spans {bounds}")), at_select("a rollup is exactly one select"));
}

#[test]
fn the_columns_returned_must_be_those_of_the_table() {
    let definition = built_in();
    let fields = |alter: &dyn Fn(&Field) -> Vec<Field>| {
        let schema = HOUR_SPEC.arrow_schema();
        let kept = schema.fields().iter().filter(|field| field.name() != DATE && field.name() != REVISION);
        Schema::new(kept.flat_map(|field| alter(field.as_ref())).collect::<Vec<_>>())
    };
    let refusal = |schema: &Schema| definition.check_output(schema).expect_err("the columns are wrong").message;

    definition.check_output(&fields(&|field| vec![field.clone()])).expect("the very columns of the table");
    definition
        .check_output(&fields(&|field| match field.data_type() {
            DataType::Utf8 => vec![field.clone().with_data_type(DataType::Utf8View)],
            _ => vec![field.clone()],
        }))
        .expect("views are text too");

    let missing = fields(&|field| if field.name() == "errors" { vec![] } else { vec![field.clone()] });
    assert!(refusal(&missing).ends_with("the select returns no column errors for table model_usage_hour"));

    let doubled = fields(&|field| if field.name() == "errors" { vec![field.clone(); 2] } else { vec![field.clone()] });
    assert!(refusal(&doubled).ends_with("the select returns column errors more than once"));

    let further = fields(&|field| match field.name().as_str() {
        "errors" => vec![field.clone(), Field::new("extra", DataType::Int64, true)],
        _ => vec![field.clone()],
    });
    assert!(refusal(&further).ends_with("the select returns column extra, table model_usage_hour has none"));

    let float_money = fields(&|field| match field.name().as_str() {
        "cost_usd" => vec![field.clone().with_data_type(DataType::Float64)],
        _ => vec![field.clone()],
    });
    assert!(
        refusal(&float_money)
            .ends_with("the select returns column cost_usd as Float64, table model_usage_hour has Decimal128(38, 12)")
    );
}

#[test]
fn an_error_of_planning_is_placed_in_the_file() {
    let definition = built_in();
    let error = |position| QueryError { kind: QueryErrorKind::Invalid, message: "no such column".to_owned(), position };
    assert_eq!(definition.locate(error(Some((23, 5)))).message, format!("{FILE}:23:5: no such column"));
    let select_line = BUILT_IN[0].1.lines().position(|line| line == "SELECT").expect("there is one") + 1;
    assert_eq!(definition.locate(error(None)).message, format!("{FILE}:{select_line}:1: no such column"));
}

#[test]
fn durations_are_whole_numbers_with_a_unit() {
    assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
    assert_eq!(parse_duration("10s"), Some(Duration::from_secs(10)));
    assert_eq!(parse_duration("1d"), Some(Duration::from_secs(86_400)));
    for wrong in ["", "1", "m", "0s", "1.5h", "-1s", "1 m", "99999999999999999999s", "18446744073709551615d"] {
        assert_eq!(parse_duration(wrong), None, "{wrong:?}");
    }
}
