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
