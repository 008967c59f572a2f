//! Heads and trailers that came as fields of HTTP/2 (RFC 9113 section 8.2, 8.3). No Python in here.
//!
//! What is malformed is refused field by field, in order; the rest becomes lines of HTTP/1 as `head` finds them in what
//! an HTTP/1 client sent, and is judged by the same rules. So whatever is accepted, `emit` can write in one way only.

use crate::emit::check_edit;
use crate::head::{check_method, request_meaning, response_length, Field, Kind, Meaning, Request, Response};
use crate::head::{Part, Span, Survey};
use crate::text::*;

fn check_value(value: &[u8], status: u16) -> Judged<()> {
    if first_control(value) < value.len() {
        return Err(Fault(status, "control character in a field value"));
    }
    let blank = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    if blank(value.first()) || blank(value.last()) {
        return Err(Fault(status, "white space around a field value"));
    }
    Ok(())
}

/// RFC 9113 section 8.2, and names and values no wider than those of HTTP/1.
fn check_field(name: &[u8], value: &[u8], status: u16) -> Judged<Kind> {
    if name.is_empty() {
        return Err(Fault(status, "empty field name"));
    }
    if token_end(name) < name.len() || name.iter().any(u8::is_ascii_uppercase) {
        return Err(Fault(status, "invalid character in a field name"));
    }
    check_value(value, status)?;
    let kind = Kind::of(name);
    let specific = match kind {
        Kind::Connection | Kind::TransferEncoding | Kind::Upgrade => true,
        Kind::Hop => name == b"keep-alive" || name == b"proxy-connection",
        Kind::Te => !value.eq_ignore_ascii_case(b"trailers"),
        _ => false,
    };
    if specific {
        return Err(Fault(status, "connection-specific field"));
    }
    Ok(kind)
}

/// What requests and responses have alike.
struct Lines {
    raw: Vec<u8>,
    list: Vec<Field>,
    size: usize,
    count: usize,
    max_head: usize,
    max_fields: usize,
    /// Of what is malformed.
    malformed: u16,
    /// Of what is too much.
    too_much: u16,
}

impl Lines {
    fn new(max_head: usize, max_fields: usize, malformed: u16, too_much: u16) -> Lines {
        let max_head = max_head.min(u32::MAX as usize / 2); // offsets are of 32 bits
        let (raw, list) = (Vec::with_capacity(1024), Vec::with_capacity(16));
        Lines { raw, list, size: 0, count: 0, max_head, max_fields, malformed, too_much }
    }

    /// None: a pseudo-header field.
    fn measure(&mut self, name: &[u8], value: &[u8]) -> Judged<Option<Kind>> {
        self.size += name.len() + value.len() + 32;
        if self.size > self.max_head {
            return Err(Fault(self.too_much, "head too large"));
        }
        if name.first() == Some(&b':') {
            return Ok(None);
        }
        if self.count == self.max_fields {
            return Err(Fault(self.too_much, "too many fields"));
        }
        self.count += 1;
        check_field(name, value, self.malformed).map(Some)
    }

    fn unknown<T>(&self) -> Judged<T> {
        Err(Fault(self.malformed, "unknown pseudo-header field"))
    }

    /// One that is known; `before`: it has been there already.
    fn check_pseudo(&self, before: bool, value: &[u8]) -> Judged<()> {
        if before {
            return Err(Fault(self.malformed, "repeated pseudo-header field"));
        }
        if self.count > 0 {
            return Err(Fault(self.malformed, "pseudo-header field behind a field"));
        }
        check_value(value, self.malformed)
    }

    fn put_pseudo(&mut self, before: Option<Span>, value: &[u8]) -> Judged<Option<Span>> {
        self.check_pseudo(before.is_some(), value)?;
        let from = self.raw.len();
        self.raw.extend_from_slice(value);
        Ok(Some((from as u32, self.raw.len() as u32)))
    }

    /// Where the value stands.
    fn put(&mut self, name: &[u8], value: &[u8], kind: Kind) -> Span {
        let start = self.raw.len();
        let name_end = start + name.len();
        let value_end = name_end + 2 + value.len();
        self.raw.extend_from_slice(name);
        self.raw.extend_from_slice(b": ");
        self.raw.extend_from_slice(value);
        self.raw.extend_from_slice(b"\r\n");
        let (start, name_end, value, value_end) =
            (start as u32, name_end as u32, name_end as u32 + 2, value_end as u32);
        self.list.push(Field { start, name_end, value, value_end, kind, dropped: false, plain: true });
        (value, value_end)
    }
}

// ---- requests -----------------------------------------------------------------------------------------------------

pub struct RequestFields {
    lines: Lines,
    method: Option<Span>,
    scheme: Option<Span>,
    path: Option<Span>,
    /// `:authority`, or Host in its stead.
    authority: Option<Span>,
    /// It is `:authority`.
    named: bool,
    hosts: u32,
    hosts_differ: bool,
    /// The crumbs of the cookie, joined.
    cookie: Option<Vec<u8>>,
}

impl RequestFields {
    pub fn new(max_head: usize, max_fields: usize) -> RequestFields {
        RequestFields {
            lines: Lines::new(max_head, max_fields, 0, 431),
            method: None,
            scheme: None,
            path: None,
            authority: None,
            named: false,
            hosts: 0,
            hosts_differ: false,
            cookie: None,
        }
    }

    pub fn push(&mut self, name: &[u8], value: &[u8]) -> Judged<()> {
        let Some(kind) = self.lines.measure(name, value)? else {
            return self.push_pseudo(name, value);
        };
        match kind {
            Kind::Host => {
                self.hosts += 1;
                match self.authority {
                    None => self.authority = Some(self.lines.put(name, value, kind)),
                    Some((from, to)) => {
                        self.hosts_differ |= !self.lines.raw[from as usize..to as usize].eq_ignore_ascii_case(value)
                    }
                }
            }
            Kind::Cookie => {
                let crumbs = self.cookie.get_or_insert_with(Vec::new);
                // an empty one would leave white space at the end
                if !crumbs.is_empty() && !value.is_empty() {
                    crumbs.extend_from_slice(b"; ");
                }
                crumbs.extend_from_slice(value);
            }
            _ => {
                self.lines.put(name, value, kind);
            }
        }
        Ok(())
    }

    fn push_pseudo(&mut self, name: &[u8], value: &[u8]) -> Judged<()> {
        let lines = &mut self.lines;
        match name {
            b":method" => self.method = lines.put_pseudo(self.method, value)?,
            b":scheme" => self.scheme = lines.put_pseudo(self.scheme, value)?,
            b":path" => self.path = lines.put_pseudo(self.path, value)?,
            b":authority" => {
                lines.check_pseudo(self.named, value)?;
                self.named = true;
                self.authority = Some(lines.put(b"host", value, Kind::Host));
            }
            _ => return lines.unknown(),
        }
        Ok(())
    }

    /// The request, and the bytes its offsets count in. `ended`: the stream ends with the head.
    pub fn finish(mut self, ended: bool) -> Judged<(Vec<u8>, Request)> {
        if let Some(cookie) = self.cookie.take() {
            self.lines.put(b"cookie", &cookie, Kind::Cookie);
        }
        let (raw, mut list, size) = (self.lines.raw, self.lines.list, self.lines.size);
        let text = |(from, to): Span| &raw[from as usize..to as usize];
        let method = self.method.ok_or(Fault(0, "missing :method"))?;
        if matches!(text(method), b"CONNECT" | b"TRACE") {
            return Err(Fault(405, "method not allowed"));
        }
        if !self.scheme.is_some_and(|scheme| matches!(text(scheme), b"http" | b"https")) {
            return Err(Fault(0, "missing or unknown :scheme"));
        }
        let path = self.path.filter(|(from, to)| to > from).ok_or(Fault(0, "missing :path"))?;
        check_method(text(method))?;
        let target = text(path);
        check_target(text(method), target)?;
        if self.hosts > 1 {
            return Err(Fault(400, "several Host fields"));
        }
        let authority = self.authority.ok_or(Fault(400, "missing Host"))?;
        if self.hosts_differ {
            return Err(Fault(400, ":authority and Host differ"));
        }
        let path_end = memchr::memchr(b'?', target).unwrap_or(target.len());
        let normal = if target == b"*" { None } else { normal_path(&target[..path_end])? };
        let name = parse_host(text(authority))?.len() as u32;
        let mut meaning = {
            let seen = Survey::of(&raw, &list);
            request_meaning(&raw, &mut list, &seen, 1, Some(ended))?
        };
        if ended && meaning.stated.is_none() && matches!(text(method), b"PATCH" | b"POST" | b"PUT") {
            // HTTP/1 has no other way to say it, and many a server insists (411)
            meaning.stated = Some(0);
        }
        let request = Request {
            method,
            target: Part::Raw(path.0, path.1),
            path_end: path_end as u32,
            normal,
            major: 2,
            minor: 1,
            host: (authority.0, authority.0 + name),
            authority,
            fields: list,
            meaning,
            size,
        };
        Ok((raw, request))
    }
}

/// As in a request line of HTTP/1: nothing in it can end it.
fn check_target(method: &[u8], target: &[u8]) -> Judged<()> {
    if target.len() > MAX_TARGET {
        return Err(Fault(414, "target too long"));
    }
    if !target.iter().all(|&b| is_target(b)) {
        return Err(Fault(400, "invalid character in the target"));
    }
    if target[0] != b'/' && (target != b"*" || method != b"OPTIONS") {
        return Err(Fault(400, "malformed target"));
    }
    Ok(())
}

// ---- responses ----------------------------------------------------------------------------------------------------

pub struct ResponseFields {
    lines: Lines,
    status: Option<Span>,
}

impl ResponseFields {
    pub fn new(max_head: usize, max_fields: usize) -> ResponseFields {
        ResponseFields { lines: Lines::new(max_head, max_fields, 502, 502), status: None }
    }

    pub fn push(&mut self, name: &[u8], value: &[u8]) -> Judged<()> {
        match self.lines.measure(name, value)? {
            Some(kind) => {
                self.lines.put(name, value, kind);
            }
            None if name == b":status" => self.status = self.lines.put_pseudo(self.status, value)?,
            None => return self.lines.unknown(),
        }
        Ok(())
    }

    /// The response, and the bytes its offsets count in. `ended`: the stream ends with the head.
    pub fn finish(self, head_request: bool, ended: bool) -> Judged<(Vec<u8>, Response)> {
        let (raw, list, size) = (self.lines.raw, self.lines.list, self.lines.size);
        let text = self.status.map_or(&b""[..], |(from, to)| &raw[from as usize..to as usize]);
        let [b'1'..=b'9', b'0'..=b'9', b'0'..=b'9'] = text else {
            return Err(Fault(502, "missing or malformed :status"));
        };
        let status = text.iter().fold(0, |n, digit| n * 10 + u16::from(digit - b'0'));
        if status == 101 {
            return Err(Fault(502, "101 in HTTP/2"));
        }
        if status < 200 && ended {
            return Err(Fault(502, "interim response that ends the stream"));
        }
        let mut meaning = Meaning::default();
        Survey::of(&raw, &list).framing(&mut meaning, 1, 502)?;
        let (length, empty) = match response_length(&mut meaning, status, head_request) {
            1.. if ended => return Err(Fault(502, "Content-Length of a body that is not there")),
            -2 if ended => (0, true),
            -2 => (-1, false),
            length => (length, false),
        };
        meaning.keep_alive = true;
        Ok((raw, Response { minor: 1, status, reason: (0, 0), fields: list, meaning, length, empty, size }))
    }
}

// ---- trailers -----------------------------------------------------------------------------------------------------

/// One more line of trailers, if this may be one.
pub fn put_trailer(out: &mut Vec<u8>, name: &[u8], value: &[u8]) -> Judged<()> {
    if name.first() == Some(&b':') {
        return Err(Fault(0, "pseudo-header field in trailers"));
    }
    check_field(name, value, 0)?;
    if may_be_trailer(name) {
        for part in [name, b": ", value, b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    Ok(())
}

/// Lines of trailers as (name in lower case, value).
pub fn trailer_pairs(lines: &[u8]) -> Judged<Vec<(Vec<u8>, &[u8])>> {
    const FAULT: Fault = Fault(500, "cannot be sent as trailers");
    let mut pairs = Vec::new();
    let mut rest = lines;
    while !rest.is_empty() {
        let end = memchr::memmem::find(rest, b"\r\n").ok_or(FAULT)?;
        let colon = memchr::memmem::find(&rest[..end], b": ").ok_or(FAULT)?;
        pairs.push((rest[..colon].to_ascii_lowercase(), &rest[colon + 2..end]));
        rest = &rest[end + 2..];
    }
    for (name, value) in &pairs {
        check_edit(name, value)?;
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs<'a> = &'a [(&'a str, &'a str)];
    const GET: Pairs = &[(":method", "GET"), (":scheme", "https"), (":path", "/a?b"), (":authority", "A.b:80")];

    fn request(pairs: &[Pairs], ended: bool) -> Judged<(Vec<u8>, Request)> {
        let mut fields = RequestFields::new(9999, 9);
        for (name, value) in pairs.concat() {
            fields.push(name.as_bytes(), value.as_bytes())?;
        }
        fields.finish(ended)
    }

    fn response(pairs: Pairs, head: bool, ended: bool) -> Judged<Response> {
        let mut fields = ResponseFields::new(999, 3);
        for (name, value) in pairs {
            fields.push(name.as_bytes(), value.as_bytes())?;
        }
        fields.finish(head, ended).map(|(_, response)| response)
    }

    #[test]
    fn a_plain_request() {
        let (raw, head) =
            request(&[GET, &[("cookie", "a"), ("x", "1"), ("cookie", ""), ("cookie", "b")]], true).unwrap();
        assert!(raw.ends_with(b"host: A.b:80\r\nx: 1\r\ncookie: a; b\r\n"));
        assert_eq!((head.major, head.length(), head.target.bytes(&raw)), (2, 0, &b"/a?b"[..]));
        assert_eq!(&raw[head.host.0 as usize..head.host.1 as usize], b"A.b");
        assert_eq!(request(&[GET], false).unwrap().1.length(), -1);
        assert_eq!(request(&[GET, &[("content-length", "7")]], false).unwrap().1.length(), 7);
    }

    #[test]
    fn malformed_requests() {
        for (more, fault) in [
            (("X", "1"), Fault(0, "invalid character in a field name")),
            (("a:", "1"), Fault(0, "invalid character in a field name")),
            (("", "1"), Fault(0, "empty field name")),
            (("a", "1\r\nb: c"), Fault(0, "control character in a field value")),
            (("a", "1 "), Fault(0, "white space around a field value")),
            (("connection", "close"), Fault(0, "connection-specific field")),
            (("te", "gzip"), Fault(0, "connection-specific field")),
            ((":path", "/"), Fault(0, "repeated pseudo-header field")),
            ((":status", "200"), Fault(0, "unknown pseudo-header field")),
            (("content-length", "5"), Fault(0, "Content-Length of a body that is not there")),
            (("host", "b"), Fault(400, ":authority and Host differ")),
            (("expect", "b"), Fault(417, "unknown expectation")),
        ] {
            assert_eq!(request(&[GET, &[more]], true).err(), Some(fault), "{more:?}");
        }
        assert_eq!(
            request(&[&GET[..3], &[("a", "b")], &GET[3..]], true).err(),
            Some(Fault(0, "pseudo-header field behind a field"))
        );
        assert_eq!(request(&[&GET[..3]], true).err(), Some(Fault(400, "missing Host")));
        assert_eq!(
            request(&[&GET[..3], &[("host", "a"), ("host", "a")]], true).err(),
            Some(Fault(400, "several Host fields"))
        );
        assert_eq!(request(&[&[("a", "b"); 10]], true).err(), Some(Fault(431, "too many fields")));
        assert_eq!(request(&[&[(":path", &"/".repeat(9999))]], true).err(), Some(Fault(431, "head too large")));
    }

    #[test]
    fn responses() {
        let length =
            |pairs: Pairs, head, ended| response(pairs, head, ended).map(|response| (response.length, response.empty));
        let fine = (":status", "200");
        assert_eq!(length(&[fine], false, true), Ok((0, true)));
        assert_eq!(length(&[fine], false, false), Ok((-1, false)));
        assert_eq!(length(&[fine, ("content-length", "7")], true, true), Ok((0, false)));
        assert!(length(&[fine, ("content-length", "7")], false, true).is_err());
        for status in ["", "20", "2000", "099", "2x0", "101"] {
            assert_eq!(length(&[(":status", status)], false, false).err().map(|fault| fault.0), Some(502));
        }
    }

    #[test]
    fn trailers() {
        let mut out = Vec::new();
        assert!(put_trailer(&mut out, b"grpc-status", b"0").is_ok() && put_trailer(&mut out, b"host", b"x").is_ok());
        assert_eq!(out, b"grpc-status: 0\r\n");
        assert_eq!(trailer_pairs(b"A: b: c\r\n"), Ok(vec![(b"a".to_vec(), &b"b: c"[..])]));
        assert!(put_trailer(&mut out, b":path", b"0").is_err() && trailer_pairs(b"A: b").is_err());
    }
}
