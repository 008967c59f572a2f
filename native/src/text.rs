//! Byte classes, faults and small pieces: one line, one value. No Python in here.

/// Status to answer and why; the same words as in `_pure.py`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault(pub u16, pub &'static str);

pub type Judged<T> = Result<T, Fault>;

pub const MAX_METHOD: usize = 32;
pub const MAX_TARGET: usize = 16 * 1024;
const MAX_LENGTH: u64 = i64::MAX as u64;
pub const MAX_OPTIONS: usize = 100;

const TOKEN: u8 = 1;
const TARGET: u8 = 2;
const HOST: u8 = 4;
const UNRESERVED: u8 = 8;

static CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0u8; 256];
    let mut byte = 0usize;
    while byte < 256 {
        let b = byte as u8;
        let mut class = 0;
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') {
            class |= TOKEN | HOST | UNRESERVED;
        }
        if matches!(b, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'^' | b'`' | b'|') {
            class |= TOKEN; // RFC 9110 section 5.6.2
        }
        if b > 0x20 && b != 0x7f && b != b'#' {
            class |= TARGET;
        }
        table[byte] = class;
        byte += 1;
    }
    table
}

#[inline(always)]
pub fn is_token(b: u8) -> bool {
    CLASS[b as usize] & TOKEN != 0
}

#[inline(always)]
pub fn is_target(b: u8) -> bool {
    CLASS[b as usize] & TARGET != 0
}

#[inline(always)]
pub fn is_control(b: u8) -> bool {
    (b < 0x20 && b != b'\t') || b == 0x7f
}

/// Where the first control byte other than HTAB is; the length if there is none.
///
/// Eight bytes at a time: the sum marks what is below 0x20 or is 0x7f, and a few more (HTAB, what stands behind 0xff),
/// so a mark is looked at. A call of memchr for each line and a count of control bytes for each head took half as
/// long again.
#[inline(always)]
pub fn first_control(text: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    let mut at = 0;
    while let Some(eight) = text.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*eight);
        let marks = (word.wrapping_sub(ONES * 0x20) | word.wrapping_add(ONES)) & !word & (ONES * 0x80);
        if marks == 0 {
            at += 8;
            continue;
        }
        at += (marks.trailing_zeros() / 8) as usize;
        if is_control(text[at]) {
            return at;
        }
        at += 1;
    }
    while at < text.len() && !is_control(text[at]) {
        at += 1;
    }
    at
}

/// Where the first byte that is no token character is; the length if there is none.
///
/// Eight bytes at a time by range arithmetic, which knows letters, digits and `-`; the table knows the rest. No byte
/// carries into the next: all sums are of seven bits.
#[inline(always)]
pub fn token_end(text: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const LOW: u64 = ONES * 0x7f;
    let mut at = 0;
    while let Some(eight) = text.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*eight);
        let seven = word & LOW;
        let lower = (word | (ONES * 0x20)) & LOW;
        let letter = (lower + ONES * (0x80 - b'a' as u64)) & !(lower + ONES * (0x7f - b'z' as u64));
        let digit = (seven + ONES * (0x80 - b'0' as u64)) & !(seven + ONES * (0x7f - b'9' as u64));
        let hyphen = !((seven ^ (ONES * b'-' as u64)) + LOW);
        let others = !((letter | digit | hyphen) & !word) & (ONES * 0x80);
        if others == 0 {
            at += 8;
            continue;
        }
        at += (others.trailing_zeros() / 8) as usize;
        if !is_token(text[at]) {
            return at;
        }
        at += 1;
    }
    while at < text.len() && is_token(text[at]) {
        at += 1;
    }
    at
}

/// Whether `name`, made of token characters, is `lower` in any case. `| 0x20` is exact for tokens: no other of them
/// becomes a letter, a digit or a hyphen by it.
#[inline(always)]
pub fn is_name<const N: usize>(name: &[u8], lower: &[u8; N]) -> bool {
    <&[u8; N]>::try_from(name).is_ok_and(|name| (0..N).fold(0, |diff, at| diff | ((name[at] | 0x20) ^ lower[at])) == 0)
}

pub fn trim(value: &[u8]) -> &[u8] {
    let blank = |b: &u8| *b == b' ' || *b == b'\t';
    let first = value.iter().position(|b| !blank(b)).unwrap_or(value.len());
    let last = value.iter().rposition(|b| !blank(b)).map_or(first, |at| at + 1);
    &value[first..last]
}

/// A line has been cut at CRLF: any other CR or LF is a line end for somebody else, and NUL ends strings.
pub fn check_line(line: &[u8], status: u16) -> Judged<()> {
    if line.contains(&b'\n') {
        return Err(Fault(status, "bare LF in a head"));
    }
    if line.contains(&b'\r') {
        return Err(Fault(status, "bare CR in a head"));
    }
    if line.contains(&0) {
        return Err(Fault(status, "NUL in a head"));
    }
    Ok(())
}

/// One field line as (name, value); the first fault in it is returned (RFC 9112 section 5).
pub fn check_field(line: &[u8], status: u16) -> Judged<(&[u8], &[u8])> {
    check_line(line, status)?;
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Fault(status, "folded field line"));
    }
    let Some(colon) = memchr::memchr(b':', line) else {
        return Err(Fault(status, "field line without a colon"));
    };
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    match name.last() {
        None => return Err(Fault(status, "empty field name")),
        Some(b' ' | b'\t') => return Err(Fault(status, "white space before the colon")),
        Some(_) => {}
    }
    if !name.iter().all(|&b| is_token(b)) {
        return Err(Fault(status, "invalid character in a field name"));
    }
    if first_control(value) < value.len() {
        return Err(Fault(status, "control character in a field value"));
    }
    Ok((name, trim(value)))
}

/// Content-Length: digits only (RFC 9110 section 8.6), at most 2^63-1.
pub fn parse_length(value: &[u8], status: u16) -> Judged<i64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Fault(status, "malformed Content-Length"));
    }
    let mut number = 0u64;
    for digit in value {
        // at most 2^63-1 before the step, so that ten times it and 9 more can overflow only to beyond the limit
        number = number.checked_mul(10).and_then(|n| n.checked_add(u64::from(digit - b'0'))).unwrap_or(u64::MAX);
        if number > MAX_LENGTH {
            return Err(Fault(status, "Content-Length out of range"));
        }
    }
    Ok(number as i64)
}

/// The name in `Host`, without port and one trailing dot; its case is left alone (RFC 9110 section 7.2).
pub fn parse_host(value: &[u8]) -> Judged<&[u8]> {
    const INVALID: Judged<&[u8]> = Err(Fault(400, "invalid Host"));
    if value.contains(&b'@') {
        return Err(Fault(400, "userinfo in Host"));
    }
    let literal = value.first() == Some(&b'[');
    let end = if literal {
        value.iter().position(|&b| b == b']').map_or(0, |at| at + 1)
    } else {
        value.iter().position(|&b| CLASS[b as usize] & HOST == 0).unwrap_or(value.len())
    };
    if end < value.len() {
        let port = &value[end + 1..];
        if value[end] != b':' || port.is_empty() || port.len() > 5 || !port.iter().all(u8::is_ascii_digit) {
            return INVALID;
        }
        if port.iter().fold(0u32, |n, digit| n * 10 + u32::from(digit - b'0')) > 65535 {
            return INVALID;
        }
    }
    let name = &value[..end];
    if literal {
        let inside = name.get(1..end.saturating_sub(1)).unwrap_or(b"");
        let good = (2..=45).contains(&inside.len());
        if !good || !inside.iter().all(|&b| b.is_ascii_hexdigit() || b == b':' || b == b'.') {
            return INVALID;
        }
        return if inside.windows(2).any(|pair| pair == b"..") { INVALID } else { Ok(name) };
    }
    if name.len() > 255 {
        return INVALID;
    }
    let name = name.strip_suffix(b".").unwrap_or(name);
    if name.is_empty() || name[0] == b'.' || name.windows(2).any(|pair| pair == b"..") {
        return INVALID;
    }
    Ok(name)
}

fn hex(b: u8) -> Option<u8> {
    (b as char).to_digit(16).map(|digit| digit as u8)
}

/// The path to match by; None: it is so already. Unreserved characters are decoded once, other triplets written in
/// upper case, bytes above 0x7f as triplets, dot segments removed (RFC 3986 section 6.2.2).
pub fn normal_path(path: &[u8]) -> Judged<Option<Vec<u8>>> {
    let plain = |pair: &[u8]| pair[0] != b'%' && pair[0] < 0x80 && pair != b"/.";
    if path.windows(2).all(plain) && path.last().is_none_or(|&b| b != b'%' && b < 0x80) {
        return Ok(None);
    }
    // Every malformed triplet is looked for before any NUL: the order in which the twin finds them.
    for (at, _) in path.iter().enumerate().filter(|(_, &b)| b == b'%') {
        if path.get(at + 1).copied().and_then(hex).is_none() || path.get(at + 2).copied().and_then(hex).is_none() {
            return Err(Fault(400, "malformed percent-encoding in the path"));
        }
    }
    let mut text = Vec::with_capacity(path.len() + 16);
    let mut at = 0;
    while at < path.len() {
        let b = path[at];
        if b == b'%' {
            let byte = path[at + 1..at + 3].iter().fold(0, |n, &digit| n << 4 | hex(digit).unwrap_or(0));
            if byte == 0 {
                return Err(Fault(400, "encoded NUL in the path"));
            }
            if CLASS[byte as usize] & UNRESERVED != 0 {
                text.push(byte);
            } else {
                text.extend(path[at..at + 3].iter().map(u8::to_ascii_uppercase));
            }
            at += 3;
        } else {
            if b > 0x7f {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                text.extend([b'%', DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]);
            } else {
                text.push(b);
            }
            at += 1;
        }
    }
    if text.windows(2).any(|pair| pair == b"/.") {
        text = without_dots(&text)?;
    }
    Ok(Some(text))
}

fn without_dots(path: &[u8]) -> Judged<Vec<u8>> {
    let mut out = Vec::with_capacity(path.len());
    let mut dots = false;
    for segment in path[1..].split(|&b| b == b'/') {
        dots = segment == b"." || segment == b"..";
        if segment == b".." {
            let Some(slash) = out.iter().rposition(|&b| b == b'/') else {
                return Err(Fault(400, "path climbs above the root"));
            };
            out.truncate(slash);
        } else if !dots {
            out.push(b'/');
            out.extend_from_slice(segment);
        }
    }
    if dots || out.is_empty() {
        out.push(b'/');
    }
    Ok(out)
}

/// Elements of a comma-separated value, white space trimmed.
pub fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(trim)
}

/// `protocol-name ["/" protocol-version]` (RFC 9110 section 7.8), and not h2c, which RFC 9113 took back.
pub fn is_protocol(part: &[u8]) -> bool {
    let mut halves = part.splitn(2, |&b| b == b'/');
    halves.all(|half| !half.is_empty() && half.iter().all(|&b| is_token(b))) && !part.eq_ignore_ascii_case(b"h2c")
}

/// Framing, routing, authentication, content and control fields have no business behind the body (RFC 9110 section
/// 6.5.1). `_` counts as `-`: gateways behind us that write names as variables see no difference.
pub fn may_be_trailer(name: &[u8]) -> bool {
    const NEVER: [&[u8]; 33] = [
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
        b"age",
        b"authentication-info",
        b"authorization",
        b"cache-control",
        b"cookie",
        b"date",
        b"expect",
        b"expires",
        b"forwarded",
        b"host",
        b"location",
        b"max-forwards",
        b"pragma",
        b"proxy-authentication-info",
        b"range",
        b"retry-after",
        b"set-cookie",
        b"trailer",
        b"vary",
        b"via",
        b"warning",
        b"www-authenticate",
        b"x-real-ip",
        b"x-request-id",
    ];
    let key: Vec<u8> = name.iter().map(|b| if *b == b'_' { b'-' } else { b.to_ascii_lowercase() }).collect();
    let prefixed = [&b"content-"[..], b"if-", b"x-forwarded-"].iter().any(|prefix| key.starts_with(prefix));
    key == b"content-digest" || !prefixed && !NEVER.contains(&&key[..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths() {
        assert_eq!(parse_length(b"005", 400), Ok(5));
        assert_eq!(parse_length(b"9223372036854775807", 400), Ok(i64::MAX));
        for (bad, why) in [
            (&b"9223372036854775808"[..], "Content-Length out of range"),
            (b"", "malformed Content-Length"),
            (b"+5", "malformed Content-Length"),
            (b"0x5", "malformed Content-Length"),
            (b"1 0", "malformed Content-Length"),
            (b"5, 5", "malformed Content-Length"),
        ] {
            assert_eq!(parse_length(bad, 502), Err(Fault(502, why)));
        }
        assert_eq!(parse_length(&[b'9'; 5000], 400), Err(Fault(400, "Content-Length out of range")));
        assert_eq!(parse_length(&[b'0'; 5000], 400), Ok(0));
    }

    #[test]
    fn hosts() {
        for (value, name) in
            [(&b"a.b:80"[..], &b"a.b"[..]), (b"A.b.", b"A.b"), (b"[::1]:80", b"[::1]"), (b"1.2.3.4", b"1.2.3.4")]
        {
            assert_eq!(parse_host(value), Ok(name));
        }
        for bad in [
            &b""[..],
            b".",
            b"a..b",
            b".a",
            b"a:",
            b"a:123456",
            b"a:65536",
            b"a b",
            b"a/b",
            b"a,b",
            b"[::1",
            b"[]",
            b"[zz::]",
            b"\xffa",
            b"a:8a",
            b"a%20",
            b"]",
            b"[",
            b"[:",
        ] {
            assert_eq!(parse_host(bad), Err(Fault(400, "invalid Host")), "{bad:?}");
        }
        assert_eq!(parse_host(b"[u@a]"), Err(Fault(400, "userinfo in Host")));
        assert_eq!(parse_host(b"u@a"), Err(Fault(400, "userinfo in Host")));
    }

    #[test]
    fn paths() {
        let same = |path: &[u8]| normal_path(path) == Ok(None);
        assert!(same(b"/") && same(b"/a/b.c/d") && same(b"//a"));
        for (path, normal) in [
            (&b"/a/../b"[..], &b"/b"[..]),
            (b"/a/.", b"/a/"),
            (b"/a/..", b"/"),
            (b"/%41%2f", b"/A%2F"),
            (b"/%2e%2E/", b""),
            (b"/a//../b", b"/a/b"),
            (b"/.well-known", b"/.well-known"),
            (b"/caf\xc3\xa9", b"/caf%C3%A9"),
            (b"/a/%2e%2e/..", b""),
            (b"/..", b""),
        ] {
            let want = if normal.is_empty() {
                Err(Fault(400, "path climbs above the root"))
            } else {
                Ok(Some(normal.to_vec()))
            };
            assert_eq!(normal_path(path), want, "{path:?}");
        }
        for bad in [&b"/%"[..], b"/%4", b"/%zz", b"/a%%20", b"/%00%"] {
            assert_eq!(normal_path(bad), Err(Fault(400, "malformed percent-encoding in the path")));
        }
        assert_eq!(normal_path(b"/a%00"), Err(Fault(400, "encoded NUL in the path")));
    }

    #[test]
    fn field_lines() {
        assert_eq!(check_field(b"A: b \t", 400), Ok((&b"A"[..], &b"b"[..])));
        assert_eq!(check_field(b"A:", 400), Ok((&b"A"[..], &b""[..])));
        for (bad, why) in [
            (&b" A: b"[..], "folded field line"),
            (b"A", "field line without a colon"),
            (b": b", "empty field name"),
            (b"A : b", "white space before the colon"),
            (b"A\x85: b", "invalid character in a field name"),
            (b"A: \x7f", "control character in a field value"),
            (b"A: \n", "bare LF in a head"),
            (b"A: \r", "bare CR in a head"),
            (b"A: \0", "NUL in a head"),
        ] {
            assert_eq!(check_field(bad, 400), Err(Fault(400, why)));
        }
    }

    #[test]
    fn trailers() {
        assert!(may_be_trailer(b"X-Checksum") && may_be_trailer(b"Content-Digest") && may_be_trailer(b"grpc-status"));
        assert!(
            !may_be_trailer(b"Content-Length") && !may_be_trailer(b"host") && !may_be_trailer(b"Transfer_Encoding")
        );
        assert!(!may_be_trailer(b"If-Match") && !may_be_trailer(b"X-Forwarded-For") && !may_be_trailer(b"Content-Foo"));
    }

    #[test]
    fn tokens_end_at_every_place() {
        for byte in 0..=255u8 {
            for place in 0..20 {
                for filler in *b"azAZ09-_~!" {
                    let mut text = [filler; 20];
                    text[place] = byte;
                    assert_eq!(token_end(&text), if is_token(byte) { 20 } else { place }, "{byte} at {place}");
                    assert_eq!(token_end(&text[..place]), place);
                }
            }
        }
    }

    #[test]
    fn control_bytes_are_found_at_every_place() {
        for byte in 0..=255u8 {
            for place in 0..20 {
                for filler in [b'a', b'\t', 0x80, 0xff, 0x20, 0x7e] {
                    let mut text = [filler; 20];
                    text[place] = byte;
                    let want = if is_control(byte) { place } else { 20 };
                    assert_eq!(first_control(&text), want, "{byte} at {place} among {filler}");
                    assert_eq!(first_control(&text[..place]), place);
                }
            }
        }
    }
}
