//! The volume that the loader itself came from, and its files.

use alloc::{
    borrow::ToOwned,
    string::{String, ToString},
};
use core::fmt;

use godwit_boot::{
    handoff::RegionKind,
    image::ImageError,
    paging::{FiveLevels, MapError},
};
use uefi::{
    CString16, Status, boot,
    proto::media::file::{Directory, File, FileAttribute, FileInfo, FileMode, RegularFile},
};

use crate::memory::Pages;

/// Where everything is.
const FOLDER: &str = "\\godwit\\";
/// Read at once: some firmware fails on very long reads.
const CHUNK: usize = 4 << 20;
/// Longest file taken, so that a broken file system cannot ask for absurd memory.
const LENGTH_MAX: u64 = 1 << 32;

/// Why something could not be loaded.
pub(crate) enum LoadError {
    /// The volume cannot be read.
    Volume(Status),
    /// A file cannot be read.
    File { path: String, status: Status },
    /// The hypervisor's image cannot be loaded.
    Image { path: String, error: ImageError },
    /// No memory.
    Memory(Status),
    /// The page tables cannot be built.
    Tables(MapError),
    /// The firmware's are of another kind.
    Levels(FiveLevels),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(status) => write!(f, "the volume it was started from cannot be read: {status}"),
            Self::File { path, status: Status::NOT_FOUND } => write!(f, "{path}: there is no such file"),
            Self::File { path, status } => write!(f, "{path}: cannot be read: {status}"),
            Self::Image { path, error } => write!(f, "{path}: {error}"),
            Self::Memory(status) => write!(f, "not enough memory: {status}"),
            Self::Tables(error) => write!(f, "{error}"),
            Self::Levels(error) => write!(f, "{error}"),
        }
    }
}

/// The volume that the loader came from.
pub(crate) struct Volume {
    root: Directory,
}

impl Volume {
    pub(crate) fn open() -> Result<Self, LoadError> {
        let failed = |error: uefi::Error| LoadError::Volume(error.status());
        let mut protocol = boot::get_image_file_system(boot::image_handle()).map_err(failed)?;
        Ok(Self { root: protocol.open_volume().map_err(failed)? })
    }

    /// Reads the file `path`, given relative to `godwit.toml`; returns its pages and its exact length.
    pub(crate) fn read(&mut self, path: &str, kind: RegionKind) -> Result<(Pages, u64), LoadError> {
        let failed = |status: Status| LoadError::File { path: path.to_owned(), status };
        let mut file = self.file(path).map_err(failed)?;
        let length = file.get_boxed_info::<FileInfo>().map_err(|error| failed(error.status()))?.file_size();
        if length > LENGTH_MAX {
            return Err(failed(Status::BAD_BUFFER_SIZE));
        }
        let mut pages =
            Pages::allocate(length.max(1), kind).map_err(|error| LoadError::Memory(error.status()))?;
        let bytes = &mut pages.bytes()[..length as usize];
        let mut done = 0;
        while done < bytes.len() {
            let end = bytes.len().min(done + CHUNK);
            match file.read(&mut bytes[done..end]) {
                Ok(0) => return Err(failed(Status::END_OF_FILE)),
                Ok(count) => done += count,
                Err(error) => return Err(failed(error.status())),
            }
        }
        Ok((pages, length))
    }

    fn file(&mut self, path: &str) -> Result<RegularFile, Status> {
        let full = FOLDER.to_string() + &path.replace('/', "\\");
        let full = CString16::try_from(full.as_str()).map_err(|_| Status::INVALID_PARAMETER)?;
        let handle =
            self.root.open(&full, FileMode::Read, FileAttribute::empty()).map_err(|error| error.status())?;
        handle.into_regular_file().ok_or(Status::NOT_FOUND)
    }
}
