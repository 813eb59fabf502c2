//! What a sender was promised, and whether it was kept.

/// Whether the rows of one request are stored as promised, given how often each of them is: all of them equally often, no
/// more than once however often the request was sent, and once where it was answered with success.
///
/// # Errors
/// Which promise was broken.
///
/// ```
/// use spanlake_testkit::stored_as_promised;
///
/// assert!(stored_as_promised(true, &[1, 1]).is_ok());
/// assert!(stored_as_promised(false, &[0, 0]).is_ok());
/// assert!(stored_as_promised(true, &[0, 0]).is_err());
/// assert!(stored_as_promised(false, &[1, 0]).is_err());
/// assert!(stored_as_promised(true, &[2, 2]).is_err());
/// ```
pub fn stored_as_promised(is_acknowledged: bool, counts: &[usize]) -> Result<(), String> {
    let Some(first) = counts.first() else { return Ok(()) };
    if counts.iter().any(|count| count != first) {
        return Err(format!("stored in part: {counts:?}"));
    }
    match (is_acknowledged, first) {
        (true, 0) => Err("acknowledged, and not there".to_owned()),
        (_, 0 | 1) => Ok(()),
        (_, more) => Err(format!("stored {more} times")),
    }
}
