//! What messages of failed calls say.

/// The HTTP status that clients of providers put into their messages: before a body, or behind `Error code:`.
pub(super) fn http_status(line: &[u8]) -> Option<&[u8]> {
    let status_at = |at: usize| {
        let (status, rest) = line.get(at..)?.split_at_checked(3)?;
        let is_status = matches!(status, [b'4' | b'5', tens, ones] if tens.is_ascii_digit() && ones.is_ascii_digit());
        (is_status && rest.first().is_none_or(|byte| !byte.is_ascii_alphanumeric())).then_some(status)
    };
    const CODE: &[u8] = b"Error code: ";
    let told = memchr::memmem::find(line, CODE).and_then(|at| status_at(at + CODE.len()));
    told.or_else(|| status_at(0).filter(|_| line.get(3..5).is_some_and(|next| next == b" {")))
}

#[cfg(test)]
mod tests {
    use super::http_status;

    #[test]
    fn the_status_of_a_failed_request_is_found_in_its_message() {
        for (line, status) in [
            ("429 {\"type\":\"error\"}", Some("429")),
            ("{'message': 'Error getting response', 'data': {'error': 'Error code: 429 - Rate limit'}}", Some("429")),
            ("Error code: 500", Some("500")),
            ("Error code: 5000", None),
            ("429 things went wrong", None),
            ("nothing of it", None),
            ("42", None),
        ] {
            assert_eq!(http_status(line.as_bytes()), status.map(str::as_bytes), "{line}");
        }
    }
}
