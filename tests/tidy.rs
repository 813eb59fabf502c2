//! House rules that a machine can check: which crate may depend on which, how long a file or a function may be, what no test
//! may do, and what newcomers must find.

#[path = "tidy/deploy.rs"]
mod deploy;
#[path = "tidy/sources.rs"]
mod sources;
#[path = "tidy/yaml.rs"]
mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sources::{RustFile, files_below, read};

/// The root of the workspace.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Fails with every violation there is, so that one run shows them all.
#[track_caller]
fn assert_none(rule: &str, violations: &[String]) {
    assert!(violations.is_empty(), "{rule}:\n  {}", violations.join("\n  "));
}

fn rust_files() -> Vec<RustFile> {
    ["crates", "src", "tests", "benches"]
        .iter()
        .flat_map(|folder| files_below(&root().join(folder), "rs"))
        .map(|path| RustFile::read(&path))
        .collect()
}

/// For each crate the crates of ours that its product code may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("schema", &[]),
    ("storage", &["schema"]),
    ("ingest", &["schema", "storage"]),
    ("metrics", &["schema", "storage"]),
    ("query", &["schema", "storage", "metrics"]),
    ("server", &["schema", "storage", "ingest", "query", "metrics"]),
    ("testkit", &["schema"]),
    ("features", &[]),
];

/// External crates that have a sole owner: nobody else's product code names them.
const OWNERS: &[(&str, &[&str])] = &[
    ("datafusion", &["query"]),
    ("parquet", &["storage", "query"]),
    ("genai-prices", &["ingest"]),
    ("clap", &["server"]),
    ("axum", &["server", "testkit"]),
    ("tonic", &["server", "testkit"]),
    ("anyhow", &["server"]),
    ("s3s", &["testkit"]),
    ("s3s-fs", &["testkit"]),
    ("proptest", &[]),
    ("tempfile", &["testkit"]),
];

struct Manifest {
    krate: String,
    table: toml::Table,
}

impl Manifest {
    fn read(path: &Path) -> Self {
        let table = read(path).parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let folder = path.parent().and_then(Path::file_name).expect("a manifest lies in a folder");
        Self { krate: folder.to_string_lossy().into_owned(), table }
    }

    /// Names below every table of this kind, those for one platform included.
    fn dependencies(&self, kind: &str) -> BTreeSet<String> {
        let own = self.table.get(kind).into_iter();
        let targets =
            self.table.get("target").and_then(toml::Value::as_table).into_iter().flat_map(toml::Table::values);
        own.chain(targets.filter_map(|target| target.get(kind)))
            .filter_map(toml::Value::as_table)
            .flat_map(|table| table.iter().map(|(name, value)| package(name, value)))
            .collect()
    }

    fn product_dependencies(&self) -> BTreeSet<String> {
        let mut names = self.dependencies("dependencies");
        names.extend(self.dependencies("build-dependencies"));
        names
    }
}

/// A dependency under another name is still that dependency.
fn package(name: &str, value: &toml::Value) -> String {
    value.get("package").and_then(toml::Value::as_str).unwrap_or(name).to_owned()
}

fn manifests() -> Vec<Manifest> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(root().join("crates"))
        .expect("the folder crates")
        .map(|entry| entry.expect("an entry of the folder crates").path().join("Cargo.toml"))
        .collect();
    paths.sort();
    paths.iter().map(|path| Manifest::read(path)).collect()
}

fn arrow_violations(manifest: &Manifest) -> Vec<String> {
    let krate = manifest.krate.as_str();
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == krate) else {
        return vec![format!("crate {krate} has no row in the table of arrows")];
    };
    let refused = |names: BTreeSet<String>, in_tests: bool| {
        let names = names.into_iter().filter_map(|name| name.strip_prefix("spanlake-").map(str::to_owned));
        names
            .filter(|name| !(allowed.contains(&name.as_str()) || in_tests && name == "testkit"))
            .map(|name| format!("{krate} → {name}{}", if in_tests { " (in its tests)" } else { "" }))
            .collect::<Vec<_>>()
    };
    let mut violations = refused(manifest.product_dependencies(), false);
    violations.extend(refused(manifest.dependencies("dev-dependencies"), true));
    violations
}

/// Guarantee: ingest never waits on planning, histograms compile without DataFusion, and nothing builds on the server.
#[test]
fn crates_depend_along_the_arrows_only() {
    let manifests = manifests();
    assert_eq!(manifests.len(), ARROWS.len(), "every crate has a row in the table of arrows, and every row a crate");
    let violations: Vec<String> = manifests.iter().flat_map(arrow_violations).collect();
    assert_none("a dependency against the arrows", &violations);

    let binary = Manifest::read(&root().join("Cargo.toml")).dependencies("dependencies");
    let ours: Vec<&String> = binary.iter().filter(|name| name.starts_with("spanlake-")).collect();
    assert_eq!(ours, ["spanlake-server"], "the binary is the server and nothing else");
}

/// Guarantee: a wrong arrow does fail the test above, whether among normal, development or platform dependencies.
#[test]
fn a_wrong_arrow_is_seen() {
    let manifest = |krate: &str, text: &str| Manifest { krate: krate.to_owned(), table: text.parse().expect("TOML") };
    let wrong = [
        ("ingest", "[dependencies]\nspanlake-query = { workspace = true }"),
        ("ingest", "[dev-dependencies]\nspanlake-metrics = { workspace = true }"),
        ("metrics", "[target.'cfg(unix)'.dependencies]\nspanlake-server = { workspace = true }"),
        ("schema", "[dependencies]\nsdk = { package = \"spanlake-storage\", path = \"../storage\" }"),
        ("server", "[dependencies]\nspanlake-testkit = { workspace = true }"),
        ("gateway", ""),
    ];
    for (krate, text) in wrong {
        assert_eq!(arrow_violations(&manifest(krate, text)).len(), 1, "{krate}: {text}");
    }
    assert!(
        arrow_violations(&manifest("storage", "[dev-dependencies]\nspanlake-testkit = { workspace = true }"))
            .is_empty()
    );
}

#[test]
fn external_crates_stay_with_their_owners() {
    let mut violations = Vec::new();
    for manifest in manifests() {
        if manifest.krate == "features" {
            continue;
        }
        let dependencies = manifest.product_dependencies();
        for (name, owners) in OWNERS {
            if dependencies.contains(*name) && !owners.contains(&manifest.krate.as_str()) {
                violations.push(format!("{} → {name}", manifest.krate));
            }
        }
    }
    assert_none("an external crate that belongs to others", &violations);
}

/// Guarantee: building one package with `spanlake-features` gives all dependencies the features of the whole workspace, so
/// that Arrow and all above it are not built again.
#[test]
fn features_names_every_external_dependency() {
    let workspace = Manifest::read(&root().join("Cargo.toml"));
    let external = workspace.table["workspace"]["dependencies"].as_table().expect("[workspace.dependencies]");
    let features = Manifest::read(&root().join("crates/features/Cargo.toml")).product_dependencies();
    let missing: Vec<String> =
        external.keys().filter(|name| !name.starts_with("spanlake-") && !features.contains(*name)).cloned().collect();
    assert_none("missing in crates/features/Cargo.toml", &missing);

    let inherits = |manifest: &Manifest| manifest.table.get("lints").and_then(|lints| lints.get("workspace")).is_some();
    let loose: Vec<String> =
        manifests().iter().filter(|manifest| !inherits(manifest)).map(|m| m.krate.clone()).collect();
    assert_none("a crate without the workspace's lints", &loose);
}

#[test]
fn files_and_functions_are_short() {
    const FILE_LINES: usize = 500;
    const FUNCTION_LINES: usize = 70;
    const INLINE_TEST_LINES: usize = 200;
    let mut violations = Vec::new();
    for file in rust_files() {
        let product = file.product_lines();
        if product.len() > FILE_LINES {
            violations.push(format!(
                "{}: {} lines that are no tests, more than {FILE_LINES}",
                file.name,
                product.len()
            ));
        }
        let tests = file.inline_test_lines();
        if tests > INLINE_TEST_LINES {
            violations.push(format!("{}: {tests} lines of tests, move them to a sibling tests.rs", file.name));
        }
        for (name, line, length) in file.functions() {
            if length > FUNCTION_LINES {
                violations
                    .push(format!("{}:{line}: fn {name} has {length} lines, more than {FUNCTION_LINES}", file.name));
            }
        }
    }
    assert_none("too long", &violations);
}

/// Guarantee: no test is switched off, and none waits a fixed time and hopes.
#[test]
fn no_test_is_ignored_or_sleeps() {
    // Written in parts, so that this file does not find itself.
    let ignored = concat!("#[", "ignore");
    let thread_sleep = concat!("thread::", "sleep");
    let async_sleep = concat!("time::", "sleep");
    let mut violations = Vec::new();
    for file in rust_files() {
        for (number, line) in file.lines.iter().enumerate() {
            let found = [ignored, thread_sleep].iter().any(|text| line.contains(text))
                || line.contains(async_sleep) && file.is_test_line(number);
            if found {
                violations.push(format!("{}:{}: {}", file.name, number + 1, line.trim()));
            }
        }
    }
    assert_none("a test that is ignored or sleeps", &violations);
}

#[test]
fn warnings_are_not_silenced_and_names_say_something() {
    let allow = [concat!("#[", "allow("), concat!("#![", "allow(")];
    const GRAB_BAGS: &[&str] = &["util", "utils", "common", "helper", "helpers", "manager", "misc"];
    let mut violations = Vec::new();
    for file in rust_files() {
        for (number, line) in file.lines.iter().enumerate() {
            if allow.iter().any(|text| line.contains(text)) {
                violations.push(format!("{}:{}: {}", file.name, number + 1, line.trim()));
            }
            let words: Vec<&str> = line.split([' ', ';', '{']).collect();
            if words.windows(2).any(|pair| pair[0] == "mod" && GRAB_BAGS.contains(&pair[1])) {
                violations.push(format!("{}:{}: {}", file.name, number + 1, line.trim()));
            }
        }
        let path = Path::new(&file.name).with_extension("");
        if path.iter().any(|part| GRAB_BAGS.iter().any(|name| part == *name)) {
            violations.push(format!("{}: a name for anything", file.name));
        }
    }
    assert_none("a silenced warning, or a grab bag", &violations);
}

/// Guarantee: a newcomer who opens a crate reads first why it is there.
#[test]
fn every_crate_opens_with_its_purpose() {
    const PARTS: &[&str] = &["why it exists", "must not know", "invariants", "units", "```"];
    let mut violations = Vec::new();
    for manifest in manifests() {
        if manifest.krate == "features" {
            continue;
        }
        let source = read(&root().join("crates").join(&manifest.krate).join("src/lib.rs"));
        let header: Vec<&str> = source.lines().take_while(|line| line.starts_with("//!")).collect();
        let header = header.join("\n").to_lowercase();
        // A crate that has nothing to show yet has no example either.
        let is_empty = source.lines().all(|line| line.starts_with("//") || line.is_empty());
        let needed = PARTS.iter().copied().filter(|part| !(is_empty && *part == "```"));
        let missing: Vec<_> = needed.filter(|part| !header.contains(part)).collect();
        if !missing.is_empty() {
            violations.push(format!("crates/{}/src/lib.rs lacks: {}", manifest.krate, missing.join(", ")));
        }
    }
    assert_none("a crate's opening", &violations);
}

#[test]
fn readme_starts_with_the_two_commands() {
    let readme = read(&root().join("README.md"));
    let top: Vec<&str> = readme.lines().take(40).collect();
    let top = top.join("\n");
    for command in ["cargo run --release -- serve", "cargo test --workspace"] {
        assert!(top.contains(command), "the first 40 lines of README.md do not show `{command}`");
    }
}

/// Guarantee: a rollup says what it is called, what it reads, when it runs, over which window and by which keys.
#[test]
fn every_rollup_has_a_header() {
    let files = files_below(&root().join("sql/rollups"), "sql");
    assert!(!files.is_empty(), "no rollup in sql/rollups");
    let mut violations = Vec::new();
    for path in files {
        let text = read(&path);
        let header: BTreeMap<&str, &str> =
            text.lines().map_while(|line| line.strip_prefix("-- ")).filter_map(|line| line.split_once(": ")).collect();
        for key in ["name", "source", "schedule", "window", "keys"] {
            if header.get(key).is_none_or(|value| value.trim().is_empty()) {
                violations.push(format!("{}: no `-- {key}: …`", path.display()));
            }
        }
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        if header.get("name").copied() != stem {
            violations.push(format!("{}: the name differs from the file's", path.display()));
        }
    }
    assert_none("a rollup's header", &violations);
}
