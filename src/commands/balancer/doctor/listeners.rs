//! Which process listens on a port, as `/proc` tells.

use std::fs;
use std::path::Path;

/// A process that has a listening socket.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) id: u32,
    pub(super) name: String,
}

/// The process that listens on this TCP port, as far as this user may see it.
pub(super) fn owner(port: u16) -> Option<Owner> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    let inode = tables.iter().find_map(|table| listening_inode(table, port))?;
    holder(&format!("socket:[{inode}]"))
}

/// The inode of the listening socket in a table of the kernel's.
fn listening_inode(table: &str, port: u16) -> Option<String> {
    const LISTENS: &str = "0A";
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let (_, local_port) = local.rsplit_once(':')?;
        let is_it = *state == LISTENS && u16::from_str_radix(local_port, 16) == Ok(port);
        is_it.then(|| (*inode).to_owned())
    })
}

fn holder(socket: &str) -> Option<Owner> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .find_map(|id| {
            let folder = Path::new("/proc").join(id.to_string());
            let mut files = fs::read_dir(folder.join("fd")).ok()?.flatten();
            files.find(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == socket))?;
            let name = fs::read_to_string(folder.join("comm")).ok()?.trim().to_owned();
            Some(Owner { id, name })
        })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_process_that_listens_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let owner = owner(listener.local_addr().unwrap().port()).unwrap();
        assert_eq!(owner.id, std::process::id());
    }

    #[test]
    fn lines_that_are_not_understood_are_passed_over() {
        let table = "head\n   0: 0100007F:1389 00000000:0000 0A 0:0 0:0 0 0 0 4711 1\nnonsense\n  1: x:zz y 0A\n";
        assert_eq!(listening_inode(table, 0x1389).as_deref(), Some("4711"));
        assert_eq!(listening_inode(table, 80), None);
    }
}
