//! A connected socket of either family.
//!
//! Reader, writer and coordinator share it by `&self`; to shut it down wakes the first two. In a
//! session it is in blocking mode and has no timeouts, which are properties of the socket and so
//! would be those of all its clones.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, send, sendmsg,
};
use socket2::SockRef;

/// A connected stream of bytes.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a UNIX socket.
    Unix(UnixStream),
}

/// A peer that is gone must not end the process with SIGPIPE, whatever its host has set.
#[cfg(not(target_vendor = "apple"))]
const QUIET: SendFlags = SendFlags::NOSIGNAL;
/// Here std and socket2 set that on each socket they make.
#[cfg(target_vendor = "apple")]
const QUIET: SendFlags = SendFlags::empty();

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Stream {
    /// Makes it what a session needs, wherever it comes from: blocking, without timeouts, and TCP
    /// without delay of small messages.
    pub(super) fn prepare(&self) -> io::Result<()> {
        let socket = SockRef::from(self);
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(None)?;
        socket.set_write_timeout(None)?;
        match self {
            Self::Tcp(stream) => stream.set_nodelay(true),
            Self::Unix(_) => Ok(()),
        }
    }

    /// Reads what is there; 0 is the end of the stream. It fails with `WouldBlock` if there is
    /// nothing.
    pub(super) fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(retry_on_intr(|| recv(self, &mut *buffer, RecvFlags::DONTWAIT))?.0)
    }

    /// Blocks until something can be read; 0 is the end of the stream.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.read_now(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return received,
            }
            // A thread that blocks in the read of a UNIX socket is also woken whenever the peer has
            // read something; one that blocks in a poll is not.
            let mut readable = [PollFd::new(self, PollFlags::IN)];
            retry_on_intr(|| poll(&mut readable, None))?;
        }
    }

    /// Blocks until some of `bytes` are written; `descriptors` go along with the first of them.
    pub(super) fn write(&self, bytes: &[u8], descriptors: &[OwnedFd]) -> io::Result<usize> {
        Ok(self.send(bytes, descriptors, QUIET)?)
    }

    /// Writes as much as the socket takes without blocking, which may be nothing.
    pub(super) fn write_now(&self, bytes: &[u8], descriptors: &[OwnedFd]) -> io::Result<usize> {
        match self.send(bytes, descriptors, QUIET | SendFlags::DONTWAIT) {
            Err(Errno::AGAIN) => Ok(0),
            sent => Ok(sent?),
        }
    }

    fn send(
        &self,
        bytes: &[u8],
        descriptors: &[OwnedFd],
        flags: SendFlags,
    ) -> Result<usize, Errno> {
        if descriptors.is_empty() {
            return retry_on_intr(|| send(self, bytes, flags));
        }
        if let Self::Tcp(_) = self {
            return Err(Errno::OPNOTSUPP); // over TCP they would silently stay behind
        }
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        let rights = SendAncillaryMessage::ScmRights(&descriptors);
        let mut space = vec![MaybeUninit::uninit(); rights.size()];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fits = control.push(rights);
        debug_assert!(fits, "the space was made for it");
        let parts = [IoSlice::new(bytes)];
        retry_on_intr(|| sendmsg(self, &parts, &mut control, flags))
    }

    /// Ends the direction from the peer and wakes who waits for it.
    pub(super) fn end_reading(&self) {
        // It fails only if the connection has ended, and then nobody waits.
        let _ = SockRef::from(self).shutdown(Shutdown::Read);
    }

    /// Ends both directions and wakes who is blocked in them.
    pub(super) fn shutdown(&self) {
        // It fails only if the peer has ended the connection, and then nobody is blocked.
        let _ = SockRef::from(self).shutdown(Shutdown::Both);
    }

    /// Who is at the other end, for people: an address or, of a UNIX socket, the path by which the
    /// two met.
    pub(super) fn peer(&self) -> String {
        match self {
            Self::Tcp(stream) => match stream.peer_addr() {
                Ok(addr) => addr.to_string(),
                Err(_) => "a TCP peer that is gone".to_owned(),
            },
            Self::Unix(stream) => [stream.peer_addr(), stream.local_addr()]
                .iter()
                .flatten()
                .find_map(|addr| Some(addr.as_pathname()?.display().to_string()))
                .unwrap_or_else(|| "an unnamed UNIX socket".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::{IoSliceMut, Write};
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;
    use std::sync::Arc;
    use std::time::Duration;

    use crossbeam_channel::bounded;
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    use super::super::scratch::Scratch;
    use super::*;
    use crate::lifecycle::spawn;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn write_all(stream: &Stream, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            bytes = &bytes[stream.write(bytes, &[])?..];
        }
        Ok(())
    }

    fn unix() -> (Stream, Stream) {
        let (near, far) = UnixStream::pair().unwrap();
        (Stream::Unix(near), Stream::Unix(far))
    }

    fn tcp() -> (Stream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Stream::Tcp(near), Stream::Tcp(listener.accept().unwrap().0))
    }

    #[test]
    fn a_stream_is_prepared_by_taking_its_timeouts_and_its_mode_away() {
        for (stream, _peer) in [unix(), tcp()] {
            let socket = SockRef::from(&stream);
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.set_write_timeout(Some(PATIENCE)).unwrap();
            socket.set_nonblocking(true).unwrap();
            stream.prepare().unwrap();
            assert_eq!(socket.read_timeout().unwrap(), None);
            assert_eq!(socket.write_timeout().unwrap(), None);
            assert!(!socket.nonblocking().unwrap());
            if let Stream::Tcp(stream) = &stream {
                assert!(stream.nodelay().unwrap());
            }
        }
    }

    #[test]
    fn a_full_socket_takes_nothing_now_and_all_of_it_in_time() {
        for (near, far) in [unix(), tcp()] {
            let bytes: Vec<u8> = (0..16 << 20).map(|at| (at % 251) as u8).collect();
            let mut sent = 0;
            while sent < bytes.len() {
                match near.write_now(&bytes[sent..], &[]).unwrap() {
                    0 => break,
                    count => sent += count,
                }
            }
            assert!(0 < sent && sent < bytes.len(), "{sent}");
            let total = bytes.len();
            let (read, got) = bounded(1);
            let _reader = spawn("reads", move || {
                let mut all = vec![0; total];
                let mut come = 0;
                while come < total {
                    come += far.read(&mut all[come..]).unwrap();
                }
                read.send(all).unwrap();
            });
            write_all(&near, &bytes[sent..]).unwrap();
            assert!(got.recv_timeout(PATIENCE).unwrap() == bytes);
        }
    }

    #[test]
    fn a_shutdown_wakes_who_reads_and_who_writes() {
        for (near, far) in [unix(), tcp()] {
            let near = Arc::new(near);
            let (ended, ends) = bounded(2);
            let reads = {
                let (near, ended) = (near.clone(), ended.clone());
                move || ended.send(near.read(&mut [0; 10])).unwrap()
            };
            let writes = {
                let near = near.clone();
                // More than any buffer takes.
                move || {
                    let written = write_all(&near, &vec![0; 64 << 20]);
                    ended.send(written.map(|()| 1)).unwrap()
                }
            };
            let threads = (
                spawn("reads", reads).unwrap(),
                spawn("writes", writes).unwrap(),
            );
            assert!(ends.recv_timeout(Duration::from_millis(50)).is_err());
            near.shutdown();
            let ends = [(); 2].map(|()| ends.recv_timeout(PATIENCE).unwrap());
            let is_end = |end: &io::Result<usize>| matches!(end, Ok(0));
            let is_failure = |end: &io::Result<usize>| end.is_err();
            assert!(
                ends.iter().any(is_end) && ends.iter().any(is_failure),
                "{ends:?}"
            );
            drop((threads, far));
            near.shutdown();
        }
    }

    #[test]
    fn what_is_written_to_a_peer_that_is_gone_is_an_error() {
        let (near, far) = unix();
        drop(far);
        let error = near.write_now(b"x", &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        let error = near.write(b"x", &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn descriptors_arrive_along_with_the_first_byte() {
        let folder = Scratch::new();
        let file = File::create_new(folder.path("sent")).unwrap();
        let (near, far) = unix();
        let (other, _) = UnixStream::pair().unwrap();
        let descriptors = [file.into(), OwnedFd::from(other)];
        assert_eq!(near.write(b"two files", &descriptors).unwrap(), 9);

        let mut bytes = [0; 4];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let come = recvmsg(&far, &mut parts, &mut control, RecvFlags::empty()).unwrap();
        assert_eq!((come.bytes, &bytes), (4, b"two "));
        let come: Vec<OwnedFd> = control
            .drain()
            .flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(come) => come.collect::<Vec<_>>(),
                _ => Vec::new(),
            })
            .collect();
        let [copy, _] = <[OwnedFd; 2]>::try_from(come).unwrap();
        File::from(copy).write_all(b"by the copy").unwrap();
        let text = fs::read_to_string(folder.path("sent")).unwrap();
        assert_eq!(text, "by the copy");

        let mut rest = [0; 10];
        assert_eq!(far.read(&mut rest).unwrap(), 5);
    }

    #[test]
    fn descriptors_do_not_go_over_tcp() {
        let (near, _far) = tcp();
        let descriptor = near.as_fd().try_clone_to_owned().unwrap();
        let error = near.write(b"x", &[descriptor]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }

    #[test]
    fn the_peer_of_a_unix_socket_is_called_by_the_path_on_either_side() {
        let folder = Scratch::new();
        let path = folder.path("met");
        let listener = UnixListener::bind(&path).unwrap();
        let near = Stream::Unix(UnixStream::connect(&path).unwrap());
        let far = Stream::Unix(listener.accept().unwrap().0);
        assert_eq!(near.peer(), path.to_str().unwrap());
        assert_eq!(far.peer(), path.to_str().unwrap());
        assert_eq!(unix().0.peer(), "an unnamed UNIX socket");
        let (near, _far) = tcp();
        assert!(near.peer().starts_with("127.0.0.1:"));
    }
}
