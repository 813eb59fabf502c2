//! Attributes on the user's list as columns of `spans`.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use spanlake_testkit::{NOON_UNIX_NANO, ServerOptions, ServerProcess, double, int, text, texts, wait_until};

use crate::delta_files::DeltaFiles;
use crate::verify::verify_server;
use crate::visibility::spans_table;
use crate::{export, server};

/// Spans with the given numbers and attributes, of one resource.
fn spans(resource: Vec<KeyValue>, spans: Vec<(u8, Vec<KeyValue>)>) -> ExportTraceServiceRequest {
    let span = |(number, attributes): (u8, Vec<KeyValue>)| Span {
        trace_id: vec![number; 16],
        span_id: vec![number; 8],
        name: format!("span {number:02}"),
        start_time_unix_nano: NOON_UNIX_NANO + u64::from(number),
        end_time_unix_nano: NOON_UNIX_NANO + 1_000_000,
        attributes,
        ..Span::default()
    };
    let scope_spans = vec![ScopeSpans { spans: spans.into_iter().map(span).collect(), ..ScopeSpans::default() }];
    let resource = Some(Resource { attributes: resource, ..Resource::default() });
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }],
    }
}

/// Keys of the configuration, whatever they were before.
fn set(options: ServerOptions, keys: &[(&str, &str)]) -> ServerOptions {
    options.envs(keys.iter().map(|(key, value)| (format!("SPANLAKE_{key}"), (*value).to_owned())))
}

async fn send(server: &ServerProcess, request: &ExportTraceServiceRequest) {
    export(server, request).await;
}

/// A column of all spans, in order, as text; a dash for NULL.
async fn column(server: &ServerProcess, expression: &str) -> String {
    let sql = format!("SELECT coalesce(CAST({expression} AS VARCHAR), '-') AS value FROM spans ORDER BY name");
    let rows = server.sql(&sql).await;
    rows.iter().map(|row| row["value"].as_str().expect("text").to_owned()).collect::<Vec<_>>().join(" ")
}

/// Names and types of the columns of `spans` behind its own.
async fn promoted(server: &ServerProcess) -> String {
    let sql = "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'spans' AND ordinal_position >= \
               (SELECT ordinal_position FROM information_schema.columns WHERE table_name = 'spans' AND column_name = 'received_time')";
    let rows = server.sql(sql).await;
    let shown = rows.iter().skip(1).map(|row| format!("{} {}", row["column_name"], row["data_type"]).replace('"', ""));
    shown.collect::<Vec<_>>().join(", ")
}

async fn metric(server: &ServerProcess, series: &str) -> Option<f64> {
    let page = server.http().get("/metrics").await.text();
    page.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

/// Waits until all that was sent is committed.
async fn committed(server: &ServerProcess) {
    wait_until("all to be committed", async || {
        let position = metric(server, "spanlake_wal_position ").await;
        (position.is_some() && position == metric(server, "spanlake_wal_committed_position ").await).then_some(())
    })
    .await;
}

/// Scenario: spans with customers' attributes are stored before anyone asked for columns; then a list names one attribute and a
/// pattern; more spans come, on spans and on resources, in types of all kinds.
/// Guarantee: from the first commit with a value on the columns are there, in the type of that value, and right: for spans of
/// before, hot ones, committed ones, after a kill. A value of another type is NULL there, counted, and still in the map. What the
/// list no longer names stays right.
#[tokio::test(flavor = "multi_thread")]
async fn attributes_on_the_list_are_columns_for_all_spans() {
    let running = server().start().await;
    let old = vec![
        (1, vec![text("customer.tier", "gold"), int("customer.tag.seats", 1)]),
        (2, vec![text("other", "x")]),
        (3, vec![int("customer.tier", 3), double("customer.tag.rate", 0.25)]),
    ];
    send(&running, &spans(vec![text("customer.tag.region", "eu")], old)).await;
    let options = running.stop().await;
    let list = "customer.tier,reg:customer[.]tag[.][a-z]+";
    let options = set(options, &[("PROMOTE", list), ("FLUSH_INTERVAL", "20ms")]);
    let running = options.start().await;
    assert_eq!(promoted(&running).await, "", "no value has come yet");
    let new = vec![
        (4, vec![text("customer.tier", "tin"), int("customer.tag.seats", 4), double("customer.tag.rate", 1.5)]),
        (5, vec![text("customer.tag.region", "us"), int("customer.tag.rate", 2), int("customer.tag.No", 1)]),
        (6, vec![texts("customer.tag.list", &["a"]), text("customer.tag.seats", "six"), text("customer.tier", "")]),
    ];
    send(&running, &spans(vec![text("customer.tag.region", "eu")], new)).await;
    committed(&running).await;

    let columns = "customer_tag_rate Float64, customer_tag_region Utf8, customer_tag_seats Int64, customer_tier Utf8";
    let sorted = |told: String| {
        let mut told: Vec<&str> = told.split(", ").collect();
        told.sort_unstable();
        told.join(", ")
    };
    assert_eq!(sorted(promoted(&running).await), columns);
    let expected = [
        ("customer_tier", "gold - - tin - "),
        ("attributes['customer.tier']", "gold - 3 tin - "),
        ("customer_tag_seats", "1 - - 4 - -"),
        ("attributes['customer.tag.seats']", "1 - - 4 - six"),
        ("customer_tag_rate", "- - 0.25 1.5 2.0 -"),
        ("customer_tag_region", "eu eu eu eu us eu"),
    ];
    let check = async |server: &ServerProcess, when: &str, more: [&str; 6]| {
        for ((expression, values), more) in expected.iter().zip(more) {
            assert_eq!(column(server, expression).await, format!("{values}{more}"), "{expression} {when}");
        }
    };
    check(&running, "committed", [""; 6]).await;
    let conflicts = "spanlake_promotion_conflicts_total{column=\"customer_tag_seats\"}";
    assert_eq!(metric(&running, conflicts).await, Some(1.0));
    assert_eq!(metric(&running, "spanlake_promotion_skipped_values_total{reason=\"type\"}").await, Some(1.0));

    let options = set(running.stop().await, &[("FLUSH_INTERVAL", "1h")]);
    let running = options.start().await;
    let hot = vec![(7, vec![text("customer.tier", "gold"), int("customer.tag.seats", 7), int("customer.tag.new", 7)])];
    send(&running, &spans(Vec::new(), hot)).await;
    let more = [" gold", " gold", " 7", " 7", " -", " -"];
    check(&running, "hot", more).await;
    let gold = "SELECT count(*) FROM spans WHERE customer_tier = 'gold' AND coalesce(customer_tag_seats, 0) <> 4";
    assert_eq!(running.sql_int(gold).await, 2);
    let options = running.sigkill().await;
    let running = options.start().await;
    check(&running, "replayed", more).await;
    let options = set(running.stop().await, &[("PROMOTE", "")]);
    let running = options.start().await;
    assert_eq!(sorted(promoted(&running).await), format!("customer_tag_new Int64, {columns}"));
    check(&running, "in three files", more).await;
    assert_eq!(running.sql_int(gold).await, 2);
    let last = vec![(8, vec![text("customer.tier", "last"), text("customer.tag.later", "no")])];
    send(&running, &spans(Vec::new(), last)).await;
    let running = running.restart().await;
    check(&running, "at last", [" gold last", " gold last", " 7 -", " 7 -", " - -", " - -"]).await;
    assert_eq!(sorted(promoted(&running).await), format!("customer_tag_new Int64, {columns}"));
}

/// Scenario: lists that cannot be: patterns that are none, names twice, of columns that are there.
/// Guarantee: the server does not start; the exit code is that of a wrong configuration; each entry is named with what is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_list_is_refused_before_anything_starts() {
    let options = server();
    for (list, problem) in [
        ("reg:a(b", "--promote: `reg:a(b` is no pattern: unclosed group"),
        ("customer.tier,customer.tier", "--promote: `customer.tier` stands there twice"),
        ("gen_ai.request.model", "--promote: `gen_ai.request.model` stands in the column request_model already"),
        ("a,,b", "--promote: `` is no name of an attribute"),
    ] {
        let output = options.run(&["serve", "--promote", list]).await;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(problem), "{told}");
    }
}

async fn attributes(server: &ServerProcess, more: &[&str]) -> String {
    let url = format!("http://{}", server.addresses().http);
    let output = server.options().run(&[&["attributes", "--server", &url], more].concat()).await;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    told
}

/// Scenario: a user looks for attributes that deserve a column, promotes one, and writes a view over it.
/// Guarantee: each attribute is one line with its place, types, spans, bytes and distinct values, the largest first, within the
/// range of time that was asked for; promoted ones tell their column and what does not fit; the user's view holds.
#[tokio::test(flavor = "multi_thread")]
async fn what_deserves_a_column_is_shown() {
    let running = set(server(), &[("PROMOTE", "customer.tier")]).start().await;
    let rows = vec![
        (1, vec![text("customer.tier", "gold"), text("note", "x".repeat(100))]),
        (2, vec![text("customer.tier", "tin"), int("seats", 5), double("rate", 0.5)]),
        (3, vec![int("customer.tier", 7), int("rate", 1)]),
    ];
    send(&running, &spans(vec![text("region", "eu")], rows)).await;
    let running = running.restart().await;
    let told = attributes(&running, &[]).await;
    let lines: Vec<Vec<&str>> = told.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["ATTRIBUTE", "OF", "COLUMN", "TYPES", "SPANS", "BYTES", "DISTINCT", "EXAMPLE"]);
    assert_eq!(lines[1][..7], ["note", "span", "-", "string", "1", "104B", "1"]);
    let tier = "customer.tier span customer_tier (1 of another type) int, string 3 47B 3 7";
    assert_eq!(lines[2].join(" "), tier);
    assert_eq!(lines[3].join(" "), "region resource - string 3 24B 1 eu");
    assert_eq!(lines[4].join(" "), "rate span - double, int 2 12B 2 0.5");
    assert_eq!(lines[5].join(" "), "seats span - int 1 6B 1 5");
    assert_eq!(lines.len(), 6);
    assert_eq!(attributes(&running, &["--limit", "1"]).await.lines().count(), 2);
    assert_eq!(attributes(&running, &["--to", "2000-01-01"]).await, "no attributes\n");
    assert_eq!(attributes(&running, &["--from", "2000-01-01", "--to", "2200-01-01"]).await, told);

    let options = running.stop().await;
    let views = options.home().join("views");
    std::fs::create_dir_all(&views).expect("a directory");
    let view = "-- name: tiers\n-- description: how many spans each tier has\nSELECT customer_tier, count(*) AS spans FROM spans GROUP BY 1";
    std::fs::write(views.join("tiers.sql"), view).expect("a view");
    let home = options.home().to_str().expect("text").to_owned();
    let running = set(options, &[("SQL_DIR", &home)]).start().await;
    assert_eq!(running.sql_int("SELECT spans FROM tiers WHERE customer_tier = 'gold'").await, 1);
}

async fn promote(server: &ServerProcess, more: &[&str]) -> String {
    let url = format!("http://{}", server.addresses().http);
    let output = server.options().run(&[&["promote", "--backfill", "--server", &url], more].concat()).await;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    told
}

async fn run_rollup(server: &ServerProcess) -> String {
    let control = format!("http://{}", server.addresses().control);
    let output = server.options().run(&["rollup", "--control", &control, "run", "model_usage_hour"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A column of the table's files as they lie on the disk, read by who knows nothing of the product; files without it say so.
fn on_disk(server: &ServerProcess, column: &str) -> Vec<String> {
    let table = DeltaFiles::read(&spans_table(server.options()));
    let mut values: Vec<String> = table.texts(column);
    values.sort_unstable();
    values
}

/// Scenario: files of two days from before the list, in several commits, with an attribute that never comes again; a backfill of
/// the first day, in a dry run first, then of all while requests come in, then once more; a kill.
/// Guarantee: SQL shows the same before and after; a dry run changes nothing; a second run has nothing to do; then the columns
/// are in every file, for any reader; rollups find nothing changed, the ledger adds up, and no span is lost or told twice.
#[tokio::test(flavor = "multi_thread")]
async fn spans_of_before_get_their_columns() {
    let mut running = server().start().await;
    for number in 1..=6_u8 {
        let attributes =
            vec![text("customer.tier", format!("tier {}", number % 3)), int("customer.seats", i64::from(number))];
        let mut request = spans(vec![text("region", "eu")], vec![(number, attributes)]);
        if number > 4 {
            // Of the day before.
            let span = &mut request.resource_spans[0].scope_spans[0].spans[0];
            span.start_time_unix_nano -= 86_400_000_000_000;
            span.end_time_unix_nano -= 86_400_000_000_000;
        }
        send(&running, &request).await;
        running = running.restart().await;
    }
    let options =
        set(running.stop().await, &[("PROMOTE", "customer.tier,reg:cust.*seats"), ("FLUSH_INTERVAL", "20ms")]);
    let running = options.start().await;
    send(&running, &spans(Vec::new(), vec![(7, vec![text("customer.tier", "new")])])).await;
    committed(&running).await;
    let tiers = column(&running, "customer_tier").await;
    assert_eq!(tiers, "tier 1 tier 2 tier 0 tier 1 tier 2 tier 0 new");
    assert_eq!(
        on_disk(&running, "customer_tier"),
        ["(no column)"; 6].iter().copied().chain(["new"]).collect::<Vec<_>>()
    );

    let until = ["--to", "2026-01-15"];
    let would = promote(&running, &[&until[..], &["--dry-run"]].concat()).await;
    let column_line = "column customer_seats (int) of attribute customer.seats";
    assert!(would.starts_with(&format!("{column_line} would be made\n2 files with 2 spans, ")), "{would}");
    assert!(would.ends_with("would be written again; nothing was\n"), "{would}");
    assert_eq!(promoted(&running).await, "customer_tier Utf8");
    run_rollup(&running).await;
    let did = promote(&running, &until).await;
    assert!(did.starts_with(&format!("{column_line} was made\n2 files with 2 spans, ")), "{did}");
    assert_eq!(on_disk(&running, "customer_tier").iter().filter(|text| *text == "(no column)").count(), 4);
    assert_eq!(column(&running, "customer_seats").await, "1 2 3 4 5 6 -");
    let rolled = run_rollup(&running).await;
    assert!(rolled.starts_with("model_usage_hour: 0 windows, 0 rows"), "no row has changed: {rolled}");

    let more = async {
        for number in 8..=12_u8 {
            send(&running, &spans(Vec::new(), vec![(number, vec![text("customer.tier", "new")])])).await;
        }
    };
    let (did, ()) = tokio::join!(promote(&running, &[]), more);
    assert!(did.starts_with("5 files with 5 spans, "), "{did}");
    committed(&running).await;
    assert_eq!(promote(&running, &[]).await, "0 files with 0 spans, 0B, written again\n");
    let check = async |running: &ServerProcess| {
        assert_eq!(column(running, "customer_tier").await, format!("{tiers}{}", " new".repeat(5)));
        assert_eq!(column(running, "attributes['customer.tier']").await, format!("{tiers}{}", " new".repeat(5)));
        assert_eq!(column(running, "customer_seats").await, format!("1 2 3 4 5 6{}", " -".repeat(6)));
    };
    check(&running).await;
    let held = on_disk(&running, "customer_tier");
    assert_eq!(held[..6], ["new"; 6]);
    assert_eq!(held[6..], ["tier 0", "tier 0", "tier 1", "tier 1", "tier 2", "tier 2"]);
    let (is_clean, report) = verify_server(&running).await;
    assert!(is_clean, "{report}");
    let options = running.sigkill().await;
    let running = options.start().await;
    check(&running).await;
}
