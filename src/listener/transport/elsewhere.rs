//! Streams, sockets that listen and the bell on systems without UNIX sockets: TCP by the means of
//! the standard library, which cannot wait for two things at a time, so that it looks for the bell
//! every now and then.

use std::io::{Read as _, Write as _};

use crate::lifecycle::Stop;

use super::*;

/// How often a wait looks for the bell.
const LOOK: Duration = Duration::from_millis(50);

/// Ends the waits of any number of threads, for good.
#[derive(Debug)]
pub(in super::super) struct Bell(Stop);

impl Bell {
    pub(in super::super) fn new() -> io::Result<Self> {
        Ok(Self(Stop::new()))
    }

    pub(in super::super) fn ring(&self) {
        self.0.stop();
    }

    pub(in super::super) fn is_rung(&self) -> bool {
        self.0.is_stopped()
    }

    pub(in super::super) fn wait(&self, limit: Duration) -> bool {
        self.0.wait_timeout(limit)
    }
}

fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

impl Stream {
    /// Reads what there is; waits for something if there is nothing.
    pub(in super::super) fn read(
        &self,
        buffer: &mut [u8],
        wait: Wait,
        bell: Option<&Bell>,
    ) -> io::Result<Read> {
        let Self::Tcp(stream) = self;
        let mut stream: &TcpStream = stream;
        loop {
            let limit = left(wait).unwrap_or(LOOK).min(LOOK);
            stream.set_nonblocking(limit.is_zero())?;
            if !limit.is_zero() {
                stream.set_read_timeout(Some(limit))?;
            }
            match stream.read(buffer) {
                Ok(0) => return Ok(Read::End),
                Ok(count) => return Ok(Read::Bytes(count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if !is_nothing(&error) => return Err(error),
                Err(_) if left(wait) == Some(Duration::ZERO) => return Ok(Read::Nothing),
                Err(_) if bell.is_some_and(Bell::is_rung) => return Ok(Read::Rung),
                Err(_) => {}
            }
        }
    }

    /// Writes some of the bytes; none if there was no room in time.
    pub(in super::super) fn write(&self, bytes: &[u8], wait: Wait) -> io::Result<usize> {
        let Self::Tcp(stream) = self;
        let mut stream: &TcpStream = stream;
        loop {
            let limit = left(wait);
            stream.set_nonblocking(limit == Some(Duration::ZERO))?;
            if limit != Some(Duration::ZERO) {
                stream.set_write_timeout(limit)?;
            }
            match stream.write(bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_nothing(&error) => return Ok(0),
                written => return written,
            }
        }
    }
}

/// The socket that children connect to.
#[derive(Debug)]
pub(in super::super) struct Acceptor {
    socket: TcpListener,
    address: String,
}

impl Acceptor {
    pub(in super::super) fn bind(transport: Transport) -> io::Result<Self> {
        let Transport::Tcp = transport;
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = format!("{TCP}{}", socket.local_addr()?);
        socket.set_nonblocking(true)?;
        Ok(Self { socket, address })
    }

    pub(in super::super) fn address(&self) -> &str {
        &self.address
    }

    /// Waits for the next connection; none once the bell is rung.
    pub(in super::super) fn accept(&self, bell: &Bell) -> io::Result<Option<Stream>> {
        loop {
            match self.socket.accept() {
                Ok((stream, _)) => {
                    // Without this a last word could be held back; not worth a refusal.
                    let _ = stream.set_nodelay(true);
                    return Ok(Some(Stream::Tcp(stream)));
                }
                Err(error) if is_gone(&error) => {}
                Err(error) if !is_nothing(&error) => return Err(error),
                Err(_) if bell.wait(LOOK) => return Ok(None),
                Err(_) => {}
            }
        }
    }
}
