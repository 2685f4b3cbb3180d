//! How values are written: as on the command line, and in a short form where there is one.
//!
//! A [`Word`] is text with a meaning of its own (`"100M"`), or the number that it would be. A table of which one
//! value says all may be that value: `vlan.10 = "office"` for `vlan.10 = { name = "office" }`; such tables are
//! [`Short`], and their types use [`short_or_table!`].

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use switch::qos::queues::Class;
use switch::qos::rate::{Rate, bytes};

/// A value as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word<T>(pub(crate) T);

/// What a [`Word`] may mean.
pub(crate) trait Typed: Sized {
    /// Reads it.
    fn read(text: &str) -> Result<Self, String>;
    /// Writes it so that nothing is lost.
    fn write(&self) -> String;
}

impl Typed for Rate {
    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|e: switch::qos::rate::BadRate| e.to_string())
    }

    fn write(&self) -> String {
        self.exact()
    }
}

/// An amount of bytes.
impl Typed for u32 {
    fn read(text: &str) -> Result<Self, String> {
        bytes(text).map_err(|e| e.to_string())
    }

    fn write(&self) -> String {
        let fits = |(unit, _): &(Self, &str)| *self > 0 && self.is_multiple_of(*unit);
        let unit = [(1 << 20, "M"), (1 << 10, "K")].into_iter().find(fits);
        unit.map_or_else(|| self.to_string(), |(unit, name)| format!("{}{name}", self / unit))
    }
}

impl Typed for Class {
    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|e: switch::qos::queues::BadClass| e.to_string())
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

impl<T: Typed> Serialize for Word<T> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&self.0.write())
    }
}

impl<'de, T: Typed> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader<T>(PhantomData<T>);
        impl<T: Typed> Visitor<'_> for Reader<T> {
            type Value = Word<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a word or a number")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Word<T>, E> {
                T::read(text).map(Word).map_err(E::custom)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Word<T>, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Word<T>, E> {
                self.visit_str(&number.to_string())
            }
        }
        from.deserialize_any(Reader(PhantomData))
    }
}

/// A table that a single value can stand for.
pub(crate) trait Short: Sized {
    /// What to expect, beside a table.
    const EXPECTED: &'static str;

    /// The table that a text stands for.
    fn of_text(_text: &str) -> Option<Self> {
        None
    }

    /// The table that `true` or `false` stands for.
    fn of_bool(_value: bool) -> Option<Self> {
        None
    }

    /// The table itself, as derived.
    fn of_table<'de, D: Deserializer<'de>>(table: D) -> Result<Self, D::Error>;
}

/// Reads a [`Short`].
pub(crate) fn read_short<'de, T: Short, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    struct Reader<T>(PhantomData<T>);
    impl<'de, T: Short> Visitor<'de> for Reader<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{} or a table", T::EXPECTED)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            T::of_text(text).ok_or_else(|| E::custom(format!("expected {} or a table", T::EXPECTED)))
        }

        fn visit_bool<E: Error>(self, value: bool) -> Result<T, E> {
            T::of_bool(value).ok_or_else(|| E::custom(format!("expected {} or a table", T::EXPECTED)))
        }

        fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<T, A::Error> {
            T::of_table(MapAccessDeserializer::new(table))
        }
    }
    from.deserialize_any(Reader(PhantomData))
}

/// For a [`Short`] that derives both traits of serde with `remote = "Self"`.
macro_rules! short_or_table {
    ($type:ty) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                $crate::topology::schema::word::read_short(from)
            }
        }
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                Self::serialize(self, out)
            }
        }
    };
}
pub(super) use short_or_table;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_lose_nothing() {
        for (bps, text) in
            [(1_000, "1k"), (1_000_001, "1000001"), (2_500_000_000, "2500M"), (10_000_000_000_000, "10T")]
        {
            let rate = Rate::from_bps(bps).unwrap();
            assert_eq!((rate.write().as_str(), Rate::read(text)), (text, Ok(rate)));
        }
        for (number, text) in [(0u32, "0"), (1500, "1500"), (65_536, "64K"), (3 << 20, "3M")] {
            assert_eq!((number.write().as_str(), u32::read(text)), (text, Ok(number)));
        }
        let read = |text: &str| serde_json::from_str::<Word<Class>>(text).map(|word| word.0);
        assert_eq!((read("2").unwrap(), read("\"strict\"").unwrap()), (Class::weight(2), Class::STRICT));
        assert!(read("0").is_err() && read("[]").is_err());
    }
}
