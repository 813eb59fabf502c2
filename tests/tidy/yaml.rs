//! The part of YAML that our deployment files keep to: block mappings and sequences, plain and quoted scalars, block
//! scalars, and flow collections that are JSON. Anything else is an error, so that what passes here means the same to a real
//! YAML parser.

use serde_json::{Map, Value};

struct Line<'a> {
    number: usize,
    indent: usize,
    text: &'a str,
}

/// Reads one document.
pub(crate) fn parse(text: &str) -> Result<Value, String> {
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let content = line.trim_start_matches(' ');
        if content.starts_with('\t') {
            return Err(format!("line {}: a tab in the indentation", index + 1));
        }
        lines.push(Line { number: index + 1, indent: line.len() - content.len(), text: content.trim_end() });
    }
    let mut parser = Parser { lines, next: 0 };
    let Some(indent) = parser.peek().map(|line| line.indent) else { return Err("the file is empty".to_owned()) };
    let value = parser.block(indent)?;
    match parser.peek() {
        Some(line) => Err(format!("line {}: unexpected indentation", line.number)),
        None => Ok(value),
    }
}

struct Parser<'a> {
    lines: Vec<Line<'a>>,
    next: usize,
}

impl<'a> Parser<'a> {
    /// The next line that is neither blank nor a comment.
    fn peek(&mut self) -> Option<&Line<'a>> {
        while self.lines.get(self.next).is_some_and(|line| line.text.is_empty() || line.text.starts_with('#')) {
            self.next += 1;
        }
        self.lines.get(self.next)
    }

    fn block(&mut self, indent: usize) -> Result<Value, String> {
        match self.peek() {
            Some(line) if line.text == "-" || line.text.starts_with("- ") => self.sequence(indent),
            _ => self.mapping(indent),
        }
    }

    fn sequence(&mut self, indent: usize) -> Result<Value, String> {
        let mut items = Vec::new();
        while let Some(line) = self.peek() {
            if line.indent != indent || !(line.text == "-" || line.text.starts_with("- ")) {
                break;
            }
            let (number, rest) = (line.number, line.text[1..].trim_start());
            if split_key(rest).is_some() && !rest.starts_with(['{', '[']) {
                // An item that is a mapping: its first key stands behind the hyphen, as if indented so far.
                let inner = indent + line.text.len() - rest.len();
                self.lines[self.next] = Line { number, indent: inner, text: rest };
                items.push(self.mapping(inner)?);
            } else {
                self.next += 1;
                items.push(self.value(rest, indent, number)?);
            }
        }
        Ok(Value::Array(items))
    }

    fn mapping(&mut self, indent: usize) -> Result<Value, String> {
        let mut map = Map::new();
        while let Some(line) = self.peek() {
            if line.indent != indent {
                break;
            }
            let number = line.number;
            let Some((key, rest)) = split_key(line.text) else {
                return Err(format!("line {number}: neither `key: value` nor `- item`: {}", line.text));
            };
            self.next += 1;
            let value = self.value(rest, indent, number)?;
            if map.insert(key.to_owned(), value).is_some() {
                return Err(format!("line {number}: the key {key} comes twice"));
            }
        }
        Ok(Value::Object(map))
    }

    /// What stands behind `key:` or `-`: a scalar, or a block on the lines below.
    fn value(&mut self, rest: &str, indent: usize, number: usize) -> Result<Value, String> {
        let rest = strip_comment(rest);
        match rest {
            "" => {}
            "|" | "|-" | ">" | ">-" => return Ok(Value::String(self.block_scalar(indent))),
            _ => return scalar(rest, number),
        }
        let Some(line) = self.peek() else { return Ok(Value::Null) };
        let listed = line.indent == indent && line.text.starts_with("- ");
        let below = line.indent;
        if below > indent || listed { self.block(below) } else { Ok(Value::Null) }
    }

    fn block_scalar(&mut self, indent: usize) -> String {
        let mut text = String::new();
        while let Some(line) = self.lines.get(self.next) {
            if !line.text.is_empty() && line.indent <= indent {
                break;
            }
            text.push_str(line.text);
            text.push('\n');
            self.next += 1;
        }
        text
    }
}

fn split_key(text: &str) -> Option<(&str, &str)> {
    let (key, rest) = match text.find(": ") {
        Some(at) => (&text[..at], &text[at + 2..]),
        None => (text.strip_suffix(':')?, ""),
    };
    let plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-./$*".contains(c));
    plain.then(|| (key, rest.trim_start()))
}

fn strip_comment(text: &str) -> &str {
    if text.starts_with('#') {
        return "";
    }
    if text.starts_with(['"', '\'']) {
        return text;
    }
    text.find(" #").map_or(text, |at| text[..at].trim_end())
}

fn scalar(text: &str, number: usize) -> Result<Value, String> {
    let wrong = |what: &str| Err(format!("line {number}: {what}: {text}"));
    if text.starts_with(['[', '{', '"']) {
        return serde_json::from_str(text).or_else(|error| wrong(&error.to_string()));
    }
    if let Some(quoted) = text.strip_prefix('\'') {
        return match quoted.strip_suffix('\'') {
            Some(inner) if !inner.replace("''", "").contains('\'') => Ok(Value::String(inner.replace("''", "'"))),
            _ => wrong("an open quote"),
        };
    }
    if text.starts_with(['&', '*', '!', '%', '@', '`', '|', '>', '?']) || text.contains(": ") {
        return wrong("a form of YAML we do not use");
    }
    Ok(match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "null" | "~" => Value::Null,
        _ => text.parse::<i64>().map_or_else(|_| Value::String(text.to_owned()), Value::from),
    })
}

#[test]
fn reads_what_it_claims_and_refuses_the_rest() {
    let text = "# c\na:\n  b: 1 # one\n  c: 'it''s'\nlist:\n- x: 1\n  y: two\n- plain\n- [\"f\", 2]\nscript: |\n  k: v\n   more\nnone:\n";
    let expected = serde_json::json!({
        "a": {"b": 1, "c": "it's"},
        "list": [{"x": 1, "y": "two"}, "plain", ["f", 2]],
        "script": "k: v\nmore\n",
        "none": null,
    });
    assert_eq!(parse(text), Ok(expected));
    for wrong in [
        "a: 1\na: 2\n",
        "a:\n\tb: 1\n",
        "a: 1\n  b: 2\n",
        "a: &anchor x\n",
        "a: [1, 2\n",
        "just text\n",
        "",
        "a: b: c\n",
    ] {
        assert!(parse(wrong).is_err(), "{wrong:?}");
    }
}
