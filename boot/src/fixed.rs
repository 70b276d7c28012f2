//! Texts and lists of fixed capacity with a fixed layout.

use core::fmt;

/// A text does not fit, or a list is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong {
    /// How many bytes or items there is room for.
    pub capacity: usize,
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is room for {} at most", self.capacity)
    }
}

impl core::error::Error for TooLong {}

/// UTF-8 text of up to `N` bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Text<const N: usize> {
    length: u32,
    bytes: [u8; N],
}

impl<const N: usize> Text<N> {
    /// No text.
    pub const EMPTY: Self = Self { length: 0, bytes: [0; N] };

    /// The text `from`.
    ///
    /// # Errors
    /// [`TooLong`] if it has more than `N` bytes.
    pub fn new(from: &str) -> Result<Self, TooLong> {
        if from.len() > N {
            return Err(TooLong { capacity: N });
        }
        Ok(Self::truncated(from))
    }

    /// As much of `from` as fits, in whole characters.
    #[must_use]
    pub fn truncated(from: &str) -> Self {
        let mut end = from.len().min(N);
        while !from.is_char_boundary(end) {
            end -= 1;
        }
        let mut text = Self::EMPTY;
        text.bytes[..end].copy_from_slice(&from.as_bytes()[..end]);
        text.length = end as u32;
        text
    }

    /// The text. What is not UTF-8 (only a foreign loader can write that) reads as empty.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let length = (self.length as usize).min(N);
        core::str::from_utf8(&self.bytes[..length]).unwrap_or("")
    }

    /// Whether there is no text.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.as_str().is_empty()
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    /// Appends as much as fits; the rest is dropped without an error.
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let length = (self.length as usize).min(N);
        let mut end = more.len().min(N - length);
        while !more.is_char_boundary(end) {
            end -= 1;
        }
        self.bytes[length..length + end].copy_from_slice(&more.as_bytes()[..end]);
        self.length = (length + end) as u32;
        Ok(())
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<const N: usize> PartialEq for Text<N> {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl<const N: usize> Eq for Text<N> {}

/// Up to `N` items.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct List<T: Copy, const N: usize> {
    count: u64,
    items: [T; N],
}

impl<T: Copy, const N: usize> List<T, N> {
    /// An empty list; `filler` fills the unused places.
    #[must_use]
    pub const fn new(filler: T) -> Self {
        Self { count: 0, items: [filler; N] }
    }

    /// Appends `item`.
    ///
    /// # Errors
    /// [`TooLong`] if the list is full.
    pub fn push(&mut self, item: T) -> Result<(), TooLong> {
        let index = usize::try_from(self.count).unwrap_or(N);
        *self.items.get_mut(index).ok_or(TooLong { capacity: N })? = item;
        self.count += 1;
        Ok(())
    }

    /// Takes the item at `index` out, if there is one; those behind it move up.
    pub fn remove(&mut self, index: usize) {
        if let Some(rest) = self.as_mut_slice().get_mut(index..).filter(|rest| !rest.is_empty()) {
            rest.rotate_left(1);
            self.count = self.as_slice().len() as u64 - 1;
        }
    }

    /// The items.
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        let count = usize::try_from(self.count).map_or(N, |count| count.min(N));
        &self.items[..count]
    }

    /// The items, to be changed in place.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        let count = usize::try_from(self.count).map_or(N, |count| count.min(N));
        &mut self.items[..count]
    }
}

impl<T: Copy + fmt::Debug, const N: usize> fmt::Debug for List<T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_slice(), f)
    }
}

#[cfg(test)]
mod tests {
    use core::fmt::Write;

    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(Text::<4>::truncated("aaaé").as_str(), "aaa");
        assert_eq!(Text::<4>::new("aaaé"), Err(TooLong { capacity: 4 }));
        let mut text = Text::<4>::EMPTY;
        text.write_str("ab").and_then(|()| text.write_str("éé")).unwrap();
        assert_eq!(text.as_str(), "abé");
    }

    #[test]
    fn a_count_or_length_beyond_the_capacity_is_harmless() {
        let list = List::<u8, 2> { count: u64::MAX, items: [1, 2] };
        assert_eq!(list.as_slice(), [1, 2]);
        let mut list = list;
        list.remove(2);
        list.remove(0);
        assert_eq!(list.as_slice(), [2]);
        list.remove(1);
        list.remove(0);
        list.remove(0);
        assert!(list.as_slice().is_empty());
        let text = Text::<2> { length: u32::MAX, bytes: [b'a', 0xff] };
        assert_eq!(text.as_str(), "");
    }

    #[test]
    fn a_full_list_refuses() {
        let mut list = List::<u8, 1>::new(0);
        assert!(list.push(1).is_ok());
        assert_eq!(list.push(2), Err(TooLong { capacity: 1 }));
        assert_eq!(list.as_slice(), [1]);
    }
}
