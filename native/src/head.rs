//! Heads of requests and responses: lines, fields, what they say about body and connection. No Python in here.
//!
//! A head is read in one pass. Where that pass stumbles, the bytes are read again slowly, line by line in the order
//! of the twin, to find the fault (or that the head is not complete): `Stumble` says nothing else.

use crate::text::*;
use memchr::memchr;

/// Empty lines before a request that are passed over (RFC 9112 section 2.2 asks for one at least).
const MAX_BLANK: usize = 4;

/// Names that mean something to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Other,
    Host,
    UserAgent,
    Referer,
    Cookie,
    ContentLength,
    TransferEncoding,
    Connection,
    Upgrade,
    Te,
    Expect,
    Trailer,
    /// Removed and not looked at: Keep-Alive, Proxy-Connection, Proxy-Authenticate, Proxy-Authorization, HTTP2-Settings
    Hop,
    RequestId,
    Authorization,
    Forwarded,
    RealIp,
    ForwardedFor,
    ForwardedProto,
    ForwardedPort,
    ForwardedHost,
    ForwardedOther,
    /// Who the peer is, by its certificate: never taken over from it, not even with `_` for `-`, which is the same to
    /// endpoints that turn names into variables.
    ClientCert,
}

impl Kind {
    #[inline]
    pub fn of(name: &[u8]) -> Kind {
        match (name.len(), name[0] | 0x20) {
            (2, b't') if is_name(name, b"te") => Kind::Te,
            (4, b'h') if is_name(name, b"host") => Kind::Host,
            (6, b'c') if is_name(name, b"cookie") => Kind::Cookie,
            (6, b'e') if is_name(name, b"expect") => Kind::Expect,
            (7, b'r') if is_name(name, b"referer") => Kind::Referer,
            (7, b't') if is_name(name, b"trailer") => Kind::Trailer,
            (7, b'u') if is_name(name, b"upgrade") => Kind::Upgrade,
            (9, b'f') if is_name(name, b"forwarded") => Kind::Forwarded,
            (9, b'x') if is_name(name, b"x-real-ip") => Kind::RealIp,
            (10, b'c') if is_name(name, b"connection") => Kind::Connection,
            (10, b'k') if is_name(name, b"keep-alive") => Kind::Hop,
            (10, b'u') if is_name(name, b"user-agent") => Kind::UserAgent,
            (12, b'x') if is_name(name, b"x-request-id") => Kind::RequestId,
            (13, b'a') if is_name(name, b"authorization") => Kind::Authorization,
            (14, b'c') if is_name(name, b"content-length") => Kind::ContentLength,
            (14, b'h') if is_name(name, b"http2-settings") => Kind::Hop,
            (16, b'p') if is_name(name, b"proxy-connection") => Kind::Hop,
            (17, b't') if is_name(name, b"transfer-encoding") => Kind::TransferEncoding,
            (18, b'p') if is_name(name, b"proxy-authenticate") => Kind::Hop,
            (19, b'p') if is_name(name, b"proxy-authorization") => Kind::Hop,
            (23, b'x') if is_client_cert(name) => Kind::ClientCert,
            (12.., b'x') if name[..12].eq_ignore_ascii_case(b"x-forwarded-") => {
                match &name[12..].to_ascii_lowercase()[..] {
                    b"for" => Kind::ForwardedFor,
                    b"proto" => Kind::ForwardedProto,
                    b"port" => Kind::ForwardedPort,
                    b"host" => Kind::ForwardedHost,
                    _ => Kind::ForwardedOther,
                }
            }
            _ => Kind::Other,
        }
    }

    /// What a message never takes along, whatever it says (RFC 9110 section 7.6.1). Content-Length and
    /// Transfer-Encoding are among them because they are written anew from the body's framing.
    #[inline]
    pub fn hop_by_hop(self) -> bool {
        use Kind::*;
        matches!(self, ContentLength | TransferEncoding | Connection | Upgrade | Te | Hop)
    }

    /// What an endpoint may hear from a trusted peer only.
    #[inline]
    pub fn vouched(self) -> bool {
        use Kind::*;
        matches!(
            self,
            Forwarded | RealIp | ForwardedFor | ForwardedProto | ForwardedPort | ForwardedHost | ForwardedOther
        )
    }

    /// Never taken out because Connection names it.
    fn never_nominated(self) -> bool {
        self.vouched()
            || matches!(
                self,
                Kind::Authorization
                    | Kind::ClientCert
                    | Kind::ContentLength
                    | Kind::Expect
                    | Kind::Host
                    | Kind::TransferEncoding
            )
    }

    /// Never touched by a route's edits.
    pub fn never_edited(self) -> bool {
        self.hop_by_hop() || matches!(self, Kind::Expect | Kind::Host | Kind::Trailer)
    }
}

/// One field line: offsets into the bytes the head was read from.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub start: u32,
    pub name_end: u32,
    pub value: u32,
    pub value_end: u32,
    pub kind: Kind,
    /// Goes no further: nominated by Connection, or without meaning in this message.
    pub dropped: bool,
    /// `name: value` CRLF as it is written anew, so the bytes can be copied.
    pub plain: bool,
}

impl Field {
    #[inline]
    pub fn name<'a>(&self, raw: &'a [u8]) -> &'a [u8] {
        &raw[self.start as usize..self.name_end as usize]
    }

    #[inline]
    pub fn value<'a>(&self, raw: &'a [u8]) -> &'a [u8] {
        &raw[self.value as usize..self.value_end as usize]
    }
}

#[cold]
fn is_client_cert(name: &[u8]) -> bool {
    let plain = name.iter().map(|&b| if b == b'_' { b'-' } else { b.to_ascii_lowercase() });
    plain.eq(b"x-forwarded-client-cert".iter().copied())
}

struct Stumble;

/// Fields from `at` on, and where the head ends.
fn fields(raw: &[u8], mut at: usize, max_fields: usize) -> Result<(Vec<Field>, usize), Stumble> {
    let mut list = Vec::with_capacity(16);
    loop {
        let rest = &raw[at..];
        let length = token_end(rest);
        if length == 0 {
            if !rest.starts_with(b"\r\n") {
                return Err(Stumble);
            }
            break;
        }
        if rest.get(length) != Some(&b':') || list.len() == max_fields {
            return Err(Stumble);
        }
        let end = length + 1 + first_control(&rest[length + 1..]);
        if rest.get(end..end + 2) != Some(b"\r\n") {
            return Err(Stumble);
        }
        let (mut from, mut to) = (length + 1, end);
        while from < to && matches!(rest[from], b' ' | b'\t') {
            from += 1;
        }
        while to > from && matches!(rest[to - 1], b' ' | b'\t') {
            to -= 1;
        }
        let name = &rest[..length];
        list.push(Field {
            start: at as u32,
            name_end: (at + length) as u32,
            value: (at + from) as u32,
            value_end: (at + to) as u32,
            kind: Kind::of(name),
            dropped: false,
            plain: from == length + 2 && rest[length + 1] == b' ' && to == end,
        });
        at += end + 2;
        if at > u32::MAX as usize {
            return Err(Stumble);
        }
    }
    Ok((list, at + 2))
}

/// `block` split at CRLF, and only there.
fn lines_of(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(block);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut from = 0;
        while let Some(found) = memchr(b'\r', &text[from..]) {
            from += found + 1;
            if text.get(from) == Some(&b'\n') {
                rest = Some(&text[from + 1..]);
                return Some(&text[..from - 1]);
            }
        }
        rest = None;
        Some(text)
    })
}

fn check_fields<'a>(lines: impl Iterator<Item = &'a [u8]>, max_fields: usize, status: u16) -> Judged<()> {
    for (number, line) in lines.enumerate() {
        if number >= max_fields {
            return Err(Fault(if status == 400 { 431 } else { status }, "too many fields"));
        }
        check_field(line, status)?;
    }
    Ok(())
}

fn without_cr(tail: &[u8]) -> &[u8] {
    tail.strip_suffix(b"\r").unwrap_or(tail)
}

pub fn find_end(data: &[u8], from: usize) -> Option<usize> {
    let from = from.min(data.len());
    memchr::memmem::find(&data[from..], b"\r\n\r\n").map(|at| at + from)
}

/// What the fields say about body and connection.
#[derive(Debug, Default)]
pub struct Meaning {
    pub keep_alive: bool,
    pub upgrade: Option<Vec<u8>>,
    /// Content-Length as stated, if any.
    pub stated: Option<i64>,
    pub chunked: bool,
    pub te_trailers: bool,
    pub expect: bool,
    pub has_host: bool,
    pub has_forwarded_for: bool,
}

/// One look at the fields that mean something.
pub struct Survey<'a> {
    host: Option<&'a [u8]>,
    hosts: u32,
    length: Option<&'a [u8]>,
    lengths: u32,
    coding: Option<&'a [u8]>,
    codings: u32,
    expect: Option<&'a [u8]>,
    expects: u32,
    connections: u32,
    upgrades: u32,
    te_trailers: bool,
    trailers: u32,
    forwarded_for: bool,
}

impl<'a> Survey<'a> {
    pub fn of(raw: &'a [u8], list: &[Field]) -> Survey<'a> {
        let mut seen = Survey {
            host: None,
            hosts: 0,
            length: None,
            lengths: 0,
            coding: None,
            codings: 0,
            expect: None,
            expects: 0,
            connections: 0,
            upgrades: 0,
            te_trailers: false,
            trailers: 0,
            forwarded_for: false,
        };
        for field in list {
            let value = || Some(field.value(raw));
            match field.kind {
                Kind::Other => {}
                Kind::Host => (seen.host, seen.hosts) = (value(), seen.hosts + 1),
                Kind::ContentLength => (seen.length, seen.lengths) = (value(), seen.lengths + 1),
                Kind::TransferEncoding => (seen.coding, seen.codings) = (value(), seen.codings + 1),
                Kind::Expect => (seen.expect, seen.expects) = (value(), seen.expects + 1),
                Kind::Connection => seen.connections += 1,
                Kind::Upgrade => seen.upgrades += 1,
                Kind::Te => seen.te_trailers |= elements(field.value(raw)).any(|e| e.eq_ignore_ascii_case(b"trailers")),
                Kind::Trailer => seen.trailers += 1,
                Kind::ForwardedFor => seen.forwarded_for = true,
                _ => {}
            }
        }
        seen
    }

    /// RFC 9112 section 6.3, with everything refused that two readers could take for different lengths.
    pub fn framing(&self, meaning: &mut Meaning, minor: u8, status: u16) -> Judged<()> {
        if let Some(coding) = self.coding {
            if minor == 0 {
                return Err(Fault(status, "Transfer-Encoding in HTTP/1.0"));
            }
            if self.lengths > 0 {
                return Err(Fault(status, "both Content-Length and Transfer-Encoding"));
            }
            if self.codings > 1 || !coding.eq_ignore_ascii_case(b"chunked") {
                return Err(Fault(if status == 400 { 501 } else { status }, "unknown transfer coding"));
            }
            meaning.chunked = true;
        } else if let Some(length) = self.length {
            if self.lengths > 1 {
                return Err(Fault(status, "several Content-Length fields"));
            }
            meaning.stated = Some(parse_length(length, status)?);
        }
        Ok(())
    }

    /// Connection and Upgrade. `upgrade`: whether this message may carry one.
    fn connection(
        &self,
        meaning: &mut Meaning,
        raw: &[u8],
        list: &mut [Field],
        minor: u8,
        upgrade: bool,
        status: u16,
    ) -> Judged<()> {
        meaning.keep_alive = minor == 1;
        if self.connections == 0 {
            return Ok(());
        }
        let (mut options, mut close, mut keep, mut named) = (0, false, false, false);
        for at in 0..list.len() {
            if list[at].kind != Kind::Connection {
                continue;
            }
            if list[at].value(raw) == b"keep-alive" {
                (options, keep) = (options + 1, true); // the most common; it nominates what is removed anyway
                if options > MAX_OPTIONS {
                    return Err(Fault(status, "too many options in Connection"));
                }
                continue;
            }
            for option in elements(list[at].value(raw)) {
                options += 1;
                if options > MAX_OPTIONS {
                    return Err(Fault(status, "too many options in Connection"));
                }
                close |= option.eq_ignore_ascii_case(b"close");
                keep |= option.eq_ignore_ascii_case(b"keep-alive");
                named |= option.eq_ignore_ascii_case(b"upgrade");
                for field in list.iter_mut() {
                    if field.name(raw).eq_ignore_ascii_case(option) && !field.kind.never_nominated() {
                        field.dropped = true;
                    }
                }
            }
        }
        meaning.keep_alive = !close && (minor == 1 || keep);
        if named && upgrade && self.upgrades > 0 {
            let mut protocols = Vec::new();
            for field in list.iter().filter(|field| field.kind == Kind::Upgrade) {
                for part in elements(field.value(raw)).filter(|part| is_protocol(part)) {
                    if !protocols.is_empty() {
                        protocols.extend_from_slice(b", ");
                    }
                    protocols.extend_from_slice(part);
                }
            }
            meaning.upgrade = (!protocols.is_empty()).then_some(protocols);
        }
        Ok(())
    }
}

fn drop_kind(list: &mut [Field], kind: Kind) {
    list.iter_mut().filter(|field| field.kind == kind).for_each(|field| field.dropped = true);
}

// ---- requests -----------------------------------------------------------------------------------------------------

/// Bytes that stand in the head, or that had to be made.
#[derive(Debug)]
pub enum Part {
    Raw(u32, u32),
    Own(Vec<u8>),
}

impl Part {
    pub fn bytes<'a>(&'a self, raw: &'a [u8]) -> &'a [u8] {
        match self {
            Part::Raw(from, to) => &raw[*from as usize..*to as usize],
            Part::Own(bytes) => bytes,
        }
    }
}

/// A request head; offsets count from the request line, or into what was made of the fields of HTTP/2.
#[derive(Debug)]
pub struct Request {
    pub method: (u32, u32),
    /// In origin-form.
    pub target: Part,
    /// Where the target's path ends, `?` or its end.
    pub path_end: u32,
    /// The path to match by, if it differs.
    pub normal: Option<Vec<u8>>,
    pub major: u8,
    pub minor: u8,
    /// The name in Host, its case left alone; empty if there is none.
    pub host: (u32, u32),
    pub authority: (u32, u32),
    pub fields: Vec<Field>,
    pub meaning: Meaning,
    /// Bytes from the request line to behind the empty line. HTTP/2: names, values, and 32 for each field.
    pub size: usize,
}

impl Request {
    pub fn length(&self) -> i64 {
        if self.meaning.chunked {
            -1
        } else {
            self.meaning.stated.unwrap_or(0)
        }
    }
}

struct RequestLine {
    method: usize,
    target: (usize, usize),
    minor: u8,
}

/// `line` is without CRLF.
fn request_line(line: &[u8]) -> Judged<RequestLine> {
    if line.len() > MAX_TARGET {
        let mut parts = line.split(|&b| b == b' ');
        let target = parts.nth(1).map_or(0, <[u8]>::len);
        if target > MAX_TARGET && parts.count() == 1 {
            check_line(line, 400)?;
            return Err(Fault(414, "target too long"));
        }
    }
    let method = line.iter().position(|&b| !is_token(b)).unwrap_or(line.len());
    if (1..=MAX_METHOD).contains(&method) && line.get(method) == Some(&b' ') {
        let from = method + 1;
        let to = from + line[from..].iter().position(|&b| !is_target(b)).unwrap_or(line.len() - from);
        let minor = match &line[to..] {
            b" HTTP/1.1" => Some(1),
            b" HTTP/1.0" => Some(0),
            _ => None,
        };
        if let (Some(minor), true) = (minor, to > from) {
            if matches!(&line[..method], b"CONNECT" | b"TRACE") {
                return Err(Fault(405, "method not allowed"));
            }
            return Ok(RequestLine { method, target: (from, to), minor });
        }
    }
    Err(request_line_fault(line))
}

/// The first fault of a line that is no good request line.
fn request_line_fault(line: &[u8]) -> Fault {
    if let Err(fault) = check_line(line, 400) {
        return fault;
    }
    let parts: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
    let [method, target, version] = parts[..] else {
        return Fault(400, "malformed request line");
    };
    if let Err(fault) = check_method(method) {
        return fault;
    }
    if !is_version(version) {
        return Fault(400, "malformed HTTP version");
    }
    if version != b"HTTP/1.1" && version != b"HTTP/1.0" {
        return Fault(505, "unsupported HTTP version");
    }
    if target.is_empty() {
        return Fault(400, "malformed request line");
    }
    Fault(400, "invalid character in the target")
}

fn is_version(text: &[u8]) -> bool {
    text.len() == 8
        && text.starts_with(b"HTTP/")
        && text[5].is_ascii_digit()
        && text[6] == b'.'
        && text[7].is_ascii_digit()
}

pub fn check_method(method: &[u8]) -> Judged<()> {
    if method.is_empty() {
        return Err(Fault(400, "malformed request line"));
    }
    if method.len() > MAX_METHOD {
        return Err(Fault(400, "method too long"));
    }
    if !method.iter().all(|&b| is_token(b)) {
        return Err(Fault(400, "invalid character in the method"));
    }
    Ok(())
}

/// Refuse the beginning of a line that can never become a good request line.
fn begin_request_line(line: &[u8]) -> Judged<()> {
    let line = without_cr(line);
    check_line(line, 400)?;
    if !line.is_empty() {
        let start = &line[..line.len().min(MAX_METHOD + 1)];
        check_method(start.split(|&b| b == b' ').next().unwrap_or(start))?;
    }
    if line.len() > MAX_TARGET + 64 {
        return Err(Fault(414, "target too long"));
    }
    Ok(())
}

struct Target<'a> {
    origin: Part,
    path_end: usize,
    normal: Option<Vec<u8>>,
    /// Of an absolute-form.
    authority: Option<(&'a [u8], (u32, u32))>,
}

fn split_target<'a>(line: &'a [u8], parts: &RequestLine) -> Judged<Target<'a>> {
    let (from, to) = parts.target;
    let text = &line[from..to];
    let (mut origin, mut authority) = (Part::Raw(from as u32, to as u32), None);
    if text[0] != b'/' {
        let scheme = if text.len() >= 7 && text[..7].eq_ignore_ascii_case(b"http://") {
            7
        } else if text.len() >= 8 && text[..8].eq_ignore_ascii_case(b"https://") {
            8
        } else {
            0
        };
        let options = &line[..parts.method] == b"OPTIONS";
        if scheme > 0 {
            let rest = &text[scheme..];
            let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
            let named = &rest[..end];
            if named.contains(&b'@') {
                return Err(Fault(400, "userinfo in the target"));
            }
            let start = from + scheme;
            authority = Some((named, (start as u32, (start + end) as u32)));
            origin = match rest.get(end) {
                Some(b'/') => Part::Raw((start + end) as u32, to as u32),
                None if options => Part::Own(b"*".to_vec()),
                _ => Part::Own([b"/", &rest[end..]].concat()),
            };
        } else if text != b"*" || !options {
            return Err(Fault(400, "malformed target"));
        }
    }
    let target = origin.bytes(line);
    let path_end = memchr(b'?', target).unwrap_or(target.len());
    let normal = if target == b"*" { None } else { normal_path(&target[..path_end])? };
    Ok(Target { origin, path_end, normal, authority })
}

pub fn skip_blank(data: &[u8]) -> Judged<usize> {
    let mut start = 0;
    while data[start..].starts_with(b"\r\n") {
        start += 2;
        if start > 2 * MAX_BLANK {
            return Err(Fault(400, "too many empty lines before the request"));
        }
    }
    Ok(start)
}

/// `raw` begins at the request line. None: more bytes are needed.
pub fn parse_request(raw: &[u8], max_head: usize, max_fields: usize) -> Judged<Option<Request>> {
    let Some(stop) = memchr(b'\n', raw) else {
        return request_slowly(raw, max_head, max_fields);
    };
    if stop == 0 || raw[stop - 1] != b'\r' {
        return request_slowly(raw, max_head, max_fields);
    }
    let line = &raw[..stop - 1];
    let parts = request_line(line)?;
    let target = split_target(line, &parts)?;
    let Ok((mut list, size)) = fields(raw, stop + 1, max_fields) else {
        return request_slowly(raw, max_head, max_fields);
    };
    if size > max_head {
        return Err(Fault(431, "head too large"));
    }
    let seen = Survey::of(raw, &list);
    let (host, authority) = read_host(raw, &list, &seen, parts.minor, target.authority)?;
    let meaning = request_meaning(raw, &mut list, &seen, parts.minor, None)?;
    Ok(Some(Request {
        method: (0, parts.method as u32),
        target: target.origin,
        path_end: target.path_end as u32,
        normal: target.normal,
        major: 1,
        minor: parts.minor,
        host,
        authority,
        fields: list,
        meaning,
        size,
    }))
}

/// `ended`: of HTTP/2, whether the stream ends with the head; None if it is HTTP/1, which says itself if a body comes.
pub fn request_meaning(
    raw: &[u8],
    list: &mut [Field],
    seen: &Survey,
    minor: u8,
    ended: Option<bool>,
) -> Judged<Meaning> {
    let mut meaning = Meaning { has_host: seen.hosts > 0, has_forwarded_for: seen.forwarded_for, ..Meaning::default() };
    seen.framing(&mut meaning, minor, 400)?;
    match (ended, meaning.stated) {
        (Some(true), Some(1..)) => return Err(Fault(0, "Content-Length of a body that is not there")),
        (Some(false), None) => meaning.chunked = true,
        _ => {}
    }
    seen.connection(&mut meaning, raw, list, minor, minor == 1, 400)?;
    if let Some(expect) = seen.expect {
        if minor == 1 && (seen.expects > 1 || !expect.eq_ignore_ascii_case(b"100-continue")) {
            return Err(Fault(417, "unknown expectation"));
        }
        meaning.expect = minor == 1 && (meaning.chunked || meaning.stated.unwrap_or(0) > 0);
        if !meaning.expect {
            drop_kind(list, Kind::Expect);
        }
    }
    meaning.te_trailers = seen.te_trailers && minor == 1;
    if seen.trailers > 0 && !meaning.chunked {
        drop_kind(list, Kind::Trailer);
    }
    Ok(meaning)
}

pub type Span = (u32, u32);

/// (name in Host, authority).
fn read_host(
    raw: &[u8],
    list: &[Field],
    seen: &Survey,
    minor: u8,
    absolute: Option<(&[u8], Span)>,
) -> Judged<(Span, Span)> {
    let (value, span) = match (seen.host, absolute) {
        (Some(value), _) => {
            if seen.hosts > 1 {
                return Err(Fault(400, "several Host fields"));
            }
            let from = list.iter().find(|field| field.kind == Kind::Host).map_or(0, |field| field.value);
            (value, (from, from + value.len() as u32))
        }
        (None, _) if minor == 1 => return Err(Fault(400, "missing Host")),
        (None, Some(absolute)) => absolute,
        (None, None) => return Ok(((0, 0), (0, 0))),
    };
    let name = parse_host(value)?;
    debug_assert!(raw.len() >= span.1 as usize);
    if let (Some(_), Some((named, _))) = (seen.host, absolute) {
        if !named.eq_ignore_ascii_case(value) {
            return Err(Fault(400, "target and Host differ"));
        }
    }
    Ok(((span.0, span.0 + name.len() as u32), span))
}

/// Why the quick pass stumbled: Ok(None) if the head is only incomplete.
fn request_slowly(raw: &[u8], max_head: usize, max_fields: usize) -> Judged<Option<Request>> {
    let end = find_end(raw, 0);
    let block = &raw[..end.unwrap_or(raw.len())];
    let mut lines: Vec<&[u8]> = lines_of(block).collect();
    let tail = if end.is_none() { lines.pop() } else { None };
    if let Some(first) = lines.first() {
        let parts = request_line(first)?;
        split_target(first, &parts)?;
    } else {
        begin_request_line(raw)?;
    }
    if end.map_or(raw.len(), |at| at + 4) > max_head {
        return Err(Fault(431, "head too large"));
    }
    check_fields(lines.into_iter().skip(1), max_fields, 400)?;
    match tail {
        Some(tail) => check_line(without_cr(tail), 400).map(|()| None),
        None => Err(Fault(400, "malformed head")), // not reached: what is complete and has no fault does not stumble
    }
}

/// See `find_head_end` in `_native.pyi`.
pub fn find_head_end(data: &[u8], start: usize) -> Judged<Option<usize>> {
    let first = skip_blank(data)?;
    let found = find_end(data, first.max(start.saturating_sub(3)));
    let stop = found.map_or(data.len(), |at| at + 4);
    if !data[first..].starts_with(b"HTTP/") {
        let window = &data[first..data.len().min(first + MAX_TARGET + 128)];
        match memchr::memmem::find(window, b"\r\n") {
            None => {
                if start < first + MAX_METHOD + 2 || stop - first > MAX_TARGET + 64 {
                    begin_request_line(&window[..window.len().min(stop - first)])?;
                }
            }
            Some(line) if first + line + 2 > start => {
                let parts = request_line(&window[..line])?;
                split_target(&window[..line], &parts)?;
            }
            Some(_) => {}
        }
    }
    let mut at = first.max(start.saturating_sub(1)).min(stop);
    if at > first && data.get(at) == Some(&b'\n') && data[at - 1] == b'\r' {
        at += 1;
    }
    let part = &data[at..stop];
    let count = |byte: u8| memchr::memchr_iter(byte, part).count();
    let pairs = part.windows(2).filter(|pair| pair == b"\r\n").count();
    if count(b'\n') != pairs {
        return Err(Fault(400, "bare LF in a head"));
    }
    if count(b'\r') - usize::from(part.last() == Some(&b'\r')) != pairs {
        return Err(Fault(400, "bare CR in a head"));
    }
    if part.contains(&0) {
        return Err(Fault(400, "NUL in a head"));
    }
    Ok(found.map(|_| stop))
}

// ---- responses ----------------------------------------------------------------------------------------------------

#[derive(Debug)]
pub struct Response {
    pub minor: u8,
    pub status: u16,
    pub reason: Span,
    pub fields: Vec<Field>,
    pub meaning: Meaning,
    /// -2 until close, -1 chunked, 0 none, n bytes.
    pub length: i64,
    /// HTTP/2 had no need to state that the length is 0, and HTTP/1 has.
    pub empty: bool,
    pub size: usize,
}

/// (minor version, status, where the reason begins).
fn status_line(line: &[u8]) -> Judged<(u8, u16, usize)> {
    if line.len() >= 12 && line[..7] == *b"HTTP/1." && matches!(line[7], b'0' | b'1') && line[8] == b' ' {
        let code = &line[9..12];
        let rest = &line[12..];
        let reason_fits = rest.is_empty() || rest[0] == b' ' && first_control(rest) == rest.len();
        if code.iter().all(u8::is_ascii_digit) && code[0] != b'0' && reason_fits {
            let status = code.iter().fold(0, |n, digit| n * 10 + u16::from(digit - b'0'));
            return Ok((line[7] - b'0', status, line.len().min(13)));
        }
    }
    check_line(line, 502)?;
    let known = line.starts_with(b"HTTP/1.1 ") || line.starts_with(b"HTTP/1.0 ");
    if line.len() >= 8 && is_version(&line[..8]) && !known {
        return Err(Fault(502, "unsupported HTTP version"));
    }
    Err(Fault(502, "malformed status line"))
}

/// None: more bytes are needed.
pub fn parse_response(raw: &[u8], head_request: bool, max_head: usize, max_fields: usize) -> Judged<Option<Response>> {
    let Some(stop) = memchr(b'\n', raw) else {
        return response_slowly(raw, max_head, max_fields);
    };
    if stop == 0 || raw[stop - 1] != b'\r' {
        return response_slowly(raw, max_head, max_fields);
    }
    let (minor, status, reason) = status_line(&raw[..stop - 1])?;
    let Ok((mut list, size)) = fields(raw, stop + 1, max_fields) else {
        return response_slowly(raw, max_head, max_fields);
    };
    if size > max_head {
        return Err(Fault(502, "head too large"));
    }
    let seen = Survey::of(raw, &list);
    let mut meaning = Meaning::default();
    seen.connection(&mut meaning, raw, &mut list, minor, true, 502)?;
    seen.framing(&mut meaning, minor, 502)?;
    let length = response_length(&mut meaning, status, head_request);
    Ok(Some(Response {
        minor,
        status,
        reason: (reason as u32, (stop - 1) as u32),
        fields: list,
        meaning,
        length,
        empty: false,
        size,
    }))
}

/// RFC 9112 section 6.3. `stated` becomes what is passed on, which for HEAD and 304 describes no body.
pub fn response_length(meaning: &mut Meaning, status: u16, head_request: bool) -> i64 {
    if status < 200 || status == 204 {
        if meaning.chunked || meaning.stated.unwrap_or(0) > 0 {
            meaning.keep_alive = false; // whether a body follows is anybody's guess
        }
        meaning.stated = None;
        return 0;
    }
    if head_request || status == 304 {
        return 0;
    }
    if meaning.chunked {
        return -1;
    }
    meaning.stated.unwrap_or_else(|| {
        meaning.keep_alive = false;
        -2
    })
}

fn response_slowly(raw: &[u8], max_head: usize, max_fields: usize) -> Judged<Option<Response>> {
    let end = find_end(raw, 0);
    let block = &raw[..end.unwrap_or(raw.len())];
    let mut lines: Vec<&[u8]> = lines_of(block).collect();
    let tail = if end.is_none() { lines.pop() } else { None };
    if let Some(first) = lines.first() {
        status_line(first)?;
    } else {
        check_line(without_cr(raw), 502)?;
        if !b"HTTP/1.".starts_with(&raw[..raw.len().min(7)]) {
            return Err(Fault(502, "malformed status line"));
        }
    }
    if end.map_or(raw.len(), |at| at + 4) > max_head {
        return Err(Fault(502, "head too large"));
    }
    check_fields(lines.into_iter().skip(1), max_fields, 502)?;
    match tail {
        Some(tail) => check_line(without_cr(tail), 502).map(|()| None),
        None => Err(Fault(502, "malformed head")), // not reached, as above
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(raw: &[u8]) -> Judged<Option<Request>> {
        parse_request(raw, 65536, 100)
    }

    fn good(raw: &[u8]) -> Request {
        request(raw).unwrap().unwrap()
    }

    #[test]
    fn a_plain_request() {
        let raw = b"GET /a?b HTTP/1.1\r\nHost: x:80\r\nConnection: close, X-A\r\nX-A:1\r\n\r\nrest";
        let head = good(raw);
        assert_eq!(head.size, raw.len() - 4);
        assert_eq!((head.minor, head.length(), head.meaning.keep_alive), (1, 0, false));
        assert_eq!(&raw[head.host.0 as usize..head.host.1 as usize], b"x");
        assert_eq!(&raw[head.authority.0 as usize..head.authority.1 as usize], b"x:80");
        assert!(head.fields[2].dropped && !head.fields[2].plain && head.fields[0].plain);
    }

    #[test]
    fn every_prefix_is_incomplete() {
        let raw = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nX: \xff\r\n\r\n";
        for end in 0..raw.len() {
            assert!(request(&raw[..end]).unwrap().is_none());
            assert_eq!(find_head_end(&raw[..end], end.saturating_sub(1)), Ok(None));
        }
        assert_eq!(find_head_end(raw, raw.len() - 1), Ok(Some(raw.len())));
    }

    #[test]
    fn refusals() {
        let fault = |raw: &[u8]| request(raw).unwrap_err();
        assert_eq!(fault(b"GET / HTTP/1.1\r\n\r\n"), Fault(400, "missing Host"));
        assert_eq!(fault(b"GET / HTTP/1.1\nHost: x\n\n"), Fault(400, "bare LF in a head"));
        assert_eq!(
            fault(b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n"),
            Fault(501, "unknown transfer coding")
        );
        assert_eq!(fault(b"GET / HTTP/2.0\r\n"), Fault(505, "unsupported HTTP version"));
        assert_eq!(fault(b"\x16\x03\x01"), Fault(400, "invalid character in the method"));
        assert_eq!(fault(b"GET http://y/ HTTP/1.1\r\nHost: x\r\n\r\n"), Fault(400, "target and Host differ"));
        assert_eq!(parse_request(b"GET / HTTP/1.1\r\nA: b", 10, 9).unwrap_err(), Fault(431, "head too large"));
        assert_eq!(
            parse_request(b"GET / HTTP/1.1\r\nA: b\r\nC: d\r\n", 99, 1).unwrap_err(),
            Fault(431, "too many fields")
        );
    }

    #[test]
    fn bodies_of_responses() {
        let length = |raw: &[u8], head| {
            let response = parse_response(raw, head, 9999, 100).unwrap().unwrap();
            (response.length, response.meaning.keep_alive)
        };
        assert_eq!(length(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", false), (7, true));
        assert_eq!(length(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", true), (0, true));
        assert_eq!(length(b"HTTP/1.1 200\r\n\r\n", false), (-2, false));
        assert_eq!(length(b"HTTP/1.1 200 \r\nTransfer-Encoding: Chunked\r\n\r\n", false), (-1, true));
        assert_eq!(length(b"HTTP/1.1 204 x\r\nContent-Length: 7\r\n\r\n", false), (0, false));
        assert_eq!(
            parse_response(b"HTTP/1.1 099 x\r\n", false, 99, 9).unwrap_err(),
            Fault(502, "malformed status line")
        );
    }
}
