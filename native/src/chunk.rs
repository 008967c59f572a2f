//! A chunked body (RFC 9112 section 7.1), strictly: CRLF only, no white space, extensions checked and dropped.

use crate::text::*;

const MAX_LINE: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    Data(u64),
    Cr,
    Lf,
    Trailer,
    Done,
}

pub struct Chunks {
    state: State,
    /// The beginning of the line in work.
    line: Vec<u8>,
    /// Bytes of trailer lines so far.
    size: usize,
    max_trailer: usize,
    pub trailers: Vec<u8>,
}

impl Chunks {
    pub fn new(max_trailer: usize) -> Chunks {
        Chunks { state: State::Size, line: Vec::new(), size: 0, max_trailer, trailers: Vec::new() }
    }

    pub fn done(&self) -> bool {
        self.state == State::Done
    }

    /// Is all of `data` payload of one chunk? Then it can be passed on as it is.
    pub fn take_whole(&mut self, data: &[u8]) -> bool {
        match self.state {
            State::Data(left) if !data.is_empty() && data.len() as u64 <= left => {
                self.state = if data.len() as u64 == left { State::Cr } else { State::Data(left - data.len() as u64) };
                true
            }
            _ => false,
        }
    }

    /// Hands the pieces of payload in `data` to `payload`; how much of `data` belonged to this body.
    pub fn feed<'a>(&mut self, data: &'a [u8], mut payload: impl FnMut(&'a [u8])) -> Judged<usize> {
        let mut at = 0;
        while at < data.len() {
            match self.state {
                State::Data(left) => {
                    let rest = &data[at..];
                    let part = &rest[..usize::try_from(left).map_or(rest.len(), |n| n.min(rest.len()))];
                    payload(part);
                    self.take_whole(part);
                    at += part.len();
                }
                State::Cr | State::Lf => {
                    let (due, next) = if self.state == State::Cr { (b'\r', State::Lf) } else { (b'\n', State::Size) };
                    if data[at] != due {
                        return Err(Fault(400, "missing CRLF after chunk data"));
                    }
                    self.state = next;
                    at += 1;
                }
                State::Size | State::Trailer => at = self.take_line(data, at)?,
                State::Done => break,
            }
        }
        Ok(at)
    }

    fn take_line(&mut self, data: &[u8], at: usize) -> Judged<usize> {
        let in_trailer = self.state == State::Trailer;
        let found = memchr::memchr(b'\n', &data[at..]);
        let stop = found.map_or(data.len(), |n| at + n + 1);
        let limit = if in_trailer { self.max_trailer - self.size } else { MAX_LINE };
        if self.line.len() + stop - at > limit {
            return Err(Fault(400, if in_trailer { "trailers too large" } else { "chunk line too long" }));
        }
        if found.is_none() {
            self.line.extend_from_slice(&data[at..]);
            return Ok(stop);
        }
        let mut kept = std::mem::take(&mut self.line);
        let line = if kept.is_empty() {
            &data[at..stop]
        } else {
            kept.extend_from_slice(&data[at..stop]);
            &kept
        };
        let Some(line) = line.strip_suffix(b"\r\n") else {
            return Err(Fault(400, "bare LF in chunked framing"));
        };
        if line.contains(&b'\r') {
            return Err(Fault(400, "bare CR in chunked framing"));
        }
        self.state = if in_trailer { self.trailer(line)? } else { chunk_size(line)? };
        Ok(stop)
    }

    fn trailer(&mut self, line: &[u8]) -> Judged<State> {
        if line.is_empty() {
            return Ok(State::Done);
        }
        let (name, value) = check_field(line, 400)?;
        self.size += line.len() + 2;
        if may_be_trailer(name) {
            for part in [name, b": ", value, b"\r\n"] {
                self.trailers.extend_from_slice(part);
            }
        }
        Ok(State::Trailer)
    }
}

fn chunk_size(line: &[u8]) -> Judged<State> {
    let digits = line.iter().position(|b| !b.is_ascii_hexdigit()).unwrap_or(line.len());
    if !(1..=16).contains(&digits) || line.get(digits).is_some_and(|&b| b != b';') {
        return Err(Fault(400, "malformed chunk size"));
    }
    let size = line[..digits].iter().fold(0u64, |n, &b| n << 4 | u64::from((b as char).to_digit(16).unwrap_or(0)));
    if size > i64::MAX as u64 {
        return Err(Fault(400, "chunk size out of range"));
    }
    if !are_extensions(&line[digits..]) {
        return Err(Fault(400, "malformed chunk extension"));
    }
    Ok(if size == 0 { State::Trailer } else { State::Data(size) })
}

/// `*( ";" token [ "=" ( token / quoted-string ) ] )`, without the white space a lenient reader allows.
fn are_extensions(mut text: &[u8]) -> bool {
    fn token(text: &[u8]) -> usize {
        text.iter().position(|&b| !is_token(b)).unwrap_or(text.len())
    }
    while let Some(rest) = text.strip_prefix(b";") {
        let name = token(rest);
        if name == 0 {
            return false;
        }
        text = &rest[name..];
        if let Some(value) = text.strip_prefix(b"=") {
            let length = if value.first() == Some(&b'"') { quoted(value) } else { token(value) };
            if length == 0 {
                return false;
            }
            text = &value[length..];
        }
    }
    text.is_empty()
}

/// Length of the quoted-string at the front of `text`, 0 if there is none (RFC 9110 section 5.6.4).
fn quoted(text: &[u8]) -> usize {
    let mut at = 1;
    while let Some(&b) = text.get(at) {
        match b {
            b'"' => return at + 1,
            b'\\' if text.get(at + 1).is_none_or(|&next| is_control(next)) => return 0,
            b'\\' => at += 2,
            _ if is_control(b) => return 0,
            _ => at += 1,
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(pieces: &[&[u8]]) -> Judged<(Vec<u8>, bool, Vec<u8>)> {
        let (mut chunks, mut out) = (Chunks::new(64), Vec::new());
        for piece in pieces {
            chunks.feed(piece, |part| out.extend_from_slice(part))?;
        }
        Ok((out, chunks.done(), chunks.trailers))
    }

    #[test]
    fn whole_and_byte_by_byte() {
        let body = b"5;a=b;c=\"d;\\\"\"\r\nhello\r\n0A\r\n0123456789\r\n0\r\nX-Sum: 1\r\nHost: x\r\n\r\n";
        let want = Ok((b"hello0123456789".to_vec(), true, b"X-Sum: 1\r\n".to_vec()));
        assert_eq!(run(&[body]), want);
        assert_eq!(run(&body.chunks(1).collect::<Vec<_>>()), want);
    }

    #[test]
    fn what_follows_is_left() {
        assert_eq!(Chunks::new(64).feed(b"0\r\n\r\nGET", |_| ()), Ok(5));
    }

    #[test]
    fn refusals() {
        for (body, why) in [
            (&b"\r\n"[..], "malformed chunk size"),
            (b"5 \r\n", "malformed chunk size"),
            (b"+5\r\n", "malformed chunk size"),
            (b"0x5\r\n", "malformed chunk size"),
            (b"00000000000000001\r\n", "malformed chunk size"),
            (b"8000000000000000\r\n", "chunk size out of range"),
            (b"5;\r\n", "malformed chunk extension"),
            (b"5;a=\"b\r\n", "malformed chunk extension"),
            (b"5; a\r\n", "malformed chunk extension"),
            (b"5\n", "bare LF in chunked framing"),
            (b"5\r\r\n", "bare CR in chunked framing"),
            (b"1\r\naa", "missing CRLF after chunk data"),
            (b"0\r\nA : b\r\n", "white space before the colon"),
            (&[b'0'; 1025], "chunk line too long"),
            (b"0\r\nX-A: 0123456789012345678901234567890123456789012345678901234567890", "trailers too large"),
        ] {
            assert_eq!(run(&[body]), Err(Fault(400, why)), "{body:?}");
        }
    }
}
