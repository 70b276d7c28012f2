//! How page content is made smaller: what pays is decided per page ([`sample`]), similar pages travel as
//! differences ([`similar`], [`patch`]), the rest is compressed several pages at a time ([`lz`]).

pub(crate) mod lz;
pub(crate) mod patch;
pub(crate) mod sample;
pub(crate) mod similar;
