//! Reading the workspace's own sources.

use std::path::{Path, PathBuf};

/// All files with this extension below a folder, in order of their names; none where the folder is missing.
pub(crate) fn files_below(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry of a folder").path()).collect();
    paths.sort();
    paths
        .into_iter()
        .flat_map(|path| {
            if path.is_dir() {
                let hidden = path.file_name().and_then(|name| name.to_str()).is_none_or(|name| name.starts_with('.'));
                let skipped = hidden || path.ends_with("node_modules");
                if skipped { Vec::new() } else { files_below(&path, extension) }
            } else if path.extension().is_some_and(|found| found == extension) {
                vec![path]
            } else {
                Vec::new()
            }
        })
        .collect()
}

/// The text of a file.
pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A Rust source file, formatted by rustfmt.
pub(crate) struct RustFile {
    /// Its path below the workspace's root.
    pub(crate) name: String,
    /// Its lines.
    pub(crate) lines: Vec<String>,
    /// Where its tests begin: an index of `lines`, or their number.
    tests_from: usize,
}

impl RustFile {
    /// Reads one.
    pub(crate) fn read(path: &Path) -> Self {
        let name = path.strip_prefix(super::root()).unwrap_or(path).to_string_lossy().into_owned();
        Self::new(name, &read(path))
    }

    fn new(name: String, text: &str) -> Self {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let whole = name.starts_with("tests/") || name.contains("/tests/") || name.ends_with("/tests.rs");
        let inline = |index: &usize| {
            lines[*index] == "#[cfg(test)]"
                && lines.get(index + 1).is_some_and(|next| next.starts_with("mod ") && next.ends_with('{'))
        };
        let tests_from = if whole { 0 } else { (0..lines.len()).find(inline).unwrap_or(lines.len()) };
        Self { name, lines, tests_from }
    }

    /// The lines that are no tests.
    pub(crate) fn product_lines(&self) -> &[String] {
        &self.lines[..self.tests_from]
    }

    /// Whether this line, by its index, belongs to tests.
    pub(crate) fn is_test_line(&self, index: usize) -> bool {
        index >= self.tests_from
    }

    /// How many lines of tests stand beside product code.
    pub(crate) fn inline_test_lines(&self) -> usize {
        if self.tests_from == 0 { 0 } else { self.lines.len() - self.tests_from }
    }

    /// Name, line number and length of each function that is no test. The length is that of the code: blank lines and
    /// comments are free.
    pub(crate) fn functions(&self) -> Vec<(String, usize, usize)> {
        let product = self.product_lines();
        let mut functions = Vec::new();
        for (index, line) in product.iter().enumerate() {
            let code = line.trim_start();
            let Some(name) = function_name(code) else { continue };
            let end = format!("{}}}", &line[..line.len() - code.len()]);
            let Some(length) = product[index..].iter().position(|line| *line == end) else { continue };
            let body = &product[index..=index + length];
            // A declaration without a body ends before the brace that was found.
            if body.iter().take_while(|line| !line.ends_with('{')).any(|line| line.ends_with(';')) {
                continue;
            }
            let counted = body.iter().map(|line| line.trim_start());
            let counted = counted.filter(|line| !line.is_empty() && !line.starts_with("//")).count();
            functions.push((name.to_owned(), index + 1, counted));
        }
        functions
    }
}

fn function_name(code: &str) -> Option<&str> {
    if code.starts_with("//") || code.ends_with('}') {
        return None;
    }
    let mut words = code
        .split(' ')
        .skip_while(|word| word.starts_with("pub") || matches!(*word, "async" | "const" | "unsafe" | "in" | "extern"));
    if words.next()? != "fn" {
        return None;
    }
    words.next()?.split(['(', '<']).next()
}

#[test]
fn functions_and_tests_are_told_apart() {
    let mut text = String::from("impl X {\n    pub(crate) async fn long(\n        &self,\n    ) -> u8 {\n");
    text.push_str(&"        work();\n".repeat(80));
    text.push_str("        // a comment\n\n        1\n    }\n}\ntrait T {\n    fn declared(&self);\n}\n");
    text.push_str("#[cfg(test)]\nmod tests {\n    fn a_test() {\n    }\n}\n");
    let file = RustFile::new("crates/x/src/y.rs".to_owned(), &text);
    assert_eq!(file.functions(), [("long".to_owned(), 2, 85)]);
    assert_eq!(file.inline_test_lines(), 5);
    assert!(!file.is_test_line(10) && file.is_test_line(file.lines.len() - 1));
    let sibling = RustFile::new("crates/x/src/y/tests.rs".to_owned(), &text);
    assert!(sibling.functions().is_empty() && sibling.product_lines().is_empty());
}
