//! The compact string that keeps attribute types beside the text of a `Map<Utf8, Utf8>`.
//!
//! One symbol an attribute, in order of arrival:
//!
//! | symbol | OTLP `AnyValue` | text in the map |
//! |---|---|---|
//! | `s` | string | as it is |
//! | `i` | int | decimal |
//! | `d` | double | shortest decimal that reads back the same; `NaN`, `Infinity`, `-Infinity` |
//! | `b` | bool | `true`, `false` |
//! | `y` | bytes | base64, standard alphabet, padded |
//! | `e` | no value set | NULL |
//! | `[`…`]` | array, the symbols of its items inside | JSON |
//! | `{`…`}` | kvlist, the symbols of its values inside | JSON, keys possibly repeated |
//! | `n` | a key without any value message | NULL |
//! | `c` | content: moved to `message_parts`, and absent from the map | none |
//! | `*c` | held by the promoted column with the letter `c`, unchanged, and absent from the map | none |
//!
//! A run of three or more equal simple symbols (`s i d b y e n c`) is written as its length and the symbol: `1536d`.
//! Inside JSON, bytes stand as base64 strings and `NaN` and the infinities as strings; the symbols tell them apart.

/// A string attribute.
pub const STRING: char = 's';
/// A 64-bit signed integer attribute.
pub const INT: char = 'i';
/// A double attribute.
pub const DOUBLE: char = 'd';
/// A bool attribute.
pub const BOOL: char = 'b';
/// A bytes attribute.
pub const BYTES: char = 'y';
/// An `AnyValue` with nothing set.
pub const EMPTY: char = 'e';
/// A `KeyValue` whose value message is missing.
pub const MISSING: char = 'n';
/// An attribute whose content stands in `message_parts`.
pub const CONTENT: char = 'c';
/// Followed by the letter of a promoted column.
pub const PROMOTED: char = '*';

/// Where the attribute stands to which a symbol belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the map, with a value of this type; of arrays and kvlists their opening bracket.
    Map(char),
    /// Not in the map: it was content, or a column holds it.
    Elsewhere,
}

/// The places of a row's attributes, in order of arrival: each [`Place::Map`] belongs to the next entry of the map. Ends where
/// the symbols do, or make no sense.
#[derive(Clone, Debug)]
pub struct Places<'a> {
    rest: &'a [u8],
    run: usize,
}

impl<'a> Places<'a> {
    /// Of the symbols of one row.
    pub fn of(symbols: &'a str) -> Self {
        Self { rest: symbols.as_bytes(), run: 0 }
    }

    /// The next entry of the map, those passed over that stand elsewhere.
    pub fn next_in_map(&mut self) -> Option<char> {
        self.find_map(|place| match place {
            Place::Map(symbol) => Some(symbol),
            Place::Elsewhere => None,
        })
    }

    /// What follows an opening bracket, up to behind the one that closes it.
    fn skip_value(&mut self) -> Option<()> {
        let mut open = 1_usize;
        let end = self.rest.iter().position(|byte| {
            match byte {
                b'[' | b'{' => open += 1,
                b']' | b'}' => open -= 1,
                _ => {}
            }
            open == 0
        });
        self.rest = self.rest.get(end? + 1..)?;
        Some(())
    }
}

impl Iterator for Places<'_> {
    type Item = Place;

    fn next(&mut self) -> Option<Place> {
        let (&first, rest) = self.rest.split_first()?;
        if self.run == 0 && first.is_ascii_digit() {
            let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let (length, rest) = self.rest.split_at(digits);
            self.run = std::str::from_utf8(length).ok()?.parse().ok().filter(|run| *run > 0)?;
            self.rest = rest;
            return self.next();
        }
        self.run = self.run.saturating_sub(1);
        if self.run == 0 {
            self.rest = rest;
        }
        match char::from(first) {
            PROMOTED => {
                self.rest = self.rest.get(1..)?;
                Some(Place::Elsewhere)
            }
            CONTENT => Some(Place::Elsewhere),
            open @ ('[' | '{') => self.skip_value().map(|()| Place::Map(open)),
            symbol @ (STRING | INT | DOUBLE | BOOL | BYTES | EMPTY | MISSING) => Some(Place::Map(symbol)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_map(symbols: &str) -> String {
        let mut places = Places::of(symbols);
        std::iter::from_fn(|| places.next_in_map()).collect()
    }

    #[test]
    fn each_symbol_belongs_to_the_next_entry_of_the_map() {
        for (symbols, entries) in [
            ("", ""),
            ("sid", "sid"),
            ("s4ib", "siiiib"),
            ("*As*[i3c*zd", "sid"),
            ("[]{}s", "[{s"),
            ("[1536d]s{s[i{b}]12y}en", "[s{en"),
            ("12s", "ssssssssssss"),
        ] {
            assert_eq!(in_map(symbols), entries, "{symbols}");
        }
        assert_eq!(Places::of("c*As3c").filter(|place| *place == Place::Elsewhere).count(), 5);
    }

    #[test]
    fn symbols_that_make_no_sense_end_the_places() {
        for (symbols, entries) in
            [("s?s", "s"), ("s[i", "s"), ("s0i", "s"), ("s*", "s"), ("s99999999999999999999i", "s"), ("i3", "i")]
        {
            assert_eq!(in_map(symbols), entries, "{symbols}");
        }
    }
}
