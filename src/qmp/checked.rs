//! Serializes only what a server can take: finite numbers, not too many levels.
//!
//! serde_json writes a number that is not finite as null, without a word, and follows nesting to
//! the end of the stack. So a value is serialized through a layer that passes everything on
//! and refuses these two.

use std::fmt;

use serde::ser::{
    Error, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant,
    SerializeTuple, SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

/// A value that serializes like the one inside, or fails.
pub(super) struct Checked<'a, T: ?Sized> {
    value: &'a T,
    levels: usize,
}

impl<'a, T: ?Sized> Checked<'a, T> {
    /// Lets the value have so many `levels` of objects and lists.
    pub(super) fn new(value: &'a T, levels: usize) -> Self {
        Self { value, levels }
    }
}

impl<T: Serialize + ?Sized> Serialize for Checked<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let levels = self.levels;
        self.value.serialize(Checking {
            inner: serializer,
            levels,
        })
    }
}

/// A serializer, or one of its seven kinds of unfinished lists and objects, that may go so many
/// `levels` deeper.
struct Checking<S> {
    inner: S,
    levels: usize,
}

impl<S> Checking<S> {
    /// What is left of the levels inside `count` brackets.
    fn inside<E: Error>(&self, count: usize) -> Result<usize, E> {
        self.levels
            .checked_sub(count)
            .ok_or_else(|| E::custom("nested too deep"))
    }
}

fn finite<E: Error>(value: f64) -> Result<(), E> {
    if value.is_finite() {
        return Ok(());
    }
    Err(E::custom(format_args!("the number {value} is not finite")))
}

macro_rules! pass_on {
    ($($method:ident($($argument:ident: $type:ty),*);)*) => {$(
        fn $method(self, $($argument: $type),*) -> Result<S::Ok, S::Error> {
            self.inner.$method($($argument),*)
        }
    )*};
}

macro_rules! begin {
    ($($method:ident($($argument:ident: $type:ty),*) -> $part:ident, $brackets:literal;)*) => {$(
        fn $method(self, $($argument: $type),*) -> Result<Self::$part, S::Error> {
            let levels = self.inside($brackets)?;
            let inner = self.inner.$method($($argument),*)?;
            Ok(Checking { inner, levels })
        }
    )*};
}

impl<S: Serializer> Serializer for Checking<S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Checking<S::SerializeSeq>;
    type SerializeTuple = Checking<S::SerializeTuple>;
    type SerializeTupleStruct = Checking<S::SerializeTupleStruct>;
    type SerializeTupleVariant = Checking<S::SerializeTupleVariant>;
    type SerializeMap = Checking<S::SerializeMap>;
    type SerializeStruct = Checking<S::SerializeStruct>;
    type SerializeStructVariant = Checking<S::SerializeStructVariant>;

    pass_on! {
        serialize_bool(value: bool);
        serialize_i8(value: i8);
        serialize_i16(value: i16);
        serialize_i32(value: i32);
        serialize_i64(value: i64);
        serialize_i128(value: i128);
        serialize_u8(value: u8);
        serialize_u16(value: u16);
        serialize_u32(value: u32);
        serialize_u64(value: u64);
        serialize_u128(value: u128);
        serialize_char(value: char);
        serialize_str(value: &str);
        serialize_bytes(value: &[u8]);
        serialize_none();
        serialize_unit();
        serialize_unit_struct(name: &'static str);
        serialize_unit_variant(name: &'static str, index: u32, variant: &'static str);
    }

    begin! {
        serialize_seq(length: Option<usize>) -> SerializeSeq, 1;
        serialize_tuple(length: usize) -> SerializeTuple, 1;
        serialize_tuple_struct(name: &'static str, length: usize) -> SerializeTupleStruct, 1;
        serialize_tuple_variant(
            name: &'static str, index: u32, variant: &'static str, length: usize
        ) -> SerializeTupleVariant, 2;
        serialize_map(length: Option<usize>) -> SerializeMap, 1;
        serialize_struct(name: &'static str, length: usize) -> SerializeStruct, 1;
        serialize_struct_variant(
            name: &'static str, index: u32, variant: &'static str, length: usize
        ) -> SerializeStructVariant, 2;
    }

    fn serialize_f32(self, value: f32) -> Result<S::Ok, S::Error> {
        finite(value.into())?;
        self.inner.serialize_f32(value)
    }

    fn serialize_f64(self, value: f64) -> Result<S::Ok, S::Error> {
        finite(value)?;
        self.inner.serialize_f64(value)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.serialize_some(&Checked::new(value, self.levels))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let value = Checked::new(value, self.levels);
        self.inner.serialize_newtype_struct(name, &value)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let value = Checked::new(value, self.inside(1)?);
        self.inner
            .serialize_newtype_variant(name, index, variant, &value)
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.collect_str(value)
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! part {
    ($($trait:ident::$method:ident($($key:ident: $type:ty)?);)*) => {$(
        impl<S: $trait> $trait for Checking<S> {
            type Ok = S::Ok;
            type Error = S::Error;

            fn $method<T: Serialize + ?Sized>(
                &mut self,
                $($key: $type,)?
                value: &T,
            ) -> Result<(), S::Error> {
                let value = Checked::new(value, self.levels);
                self.inner.$method($($key,)? &value)
            }

            fn end(self) -> Result<S::Ok, S::Error> {
                self.inner.end()
            }
        }
    )*};
}

part! {
    SerializeSeq::serialize_element();
    SerializeTuple::serialize_element();
    SerializeTupleStruct::serialize_field();
    SerializeTupleVariant::serialize_field();
    SerializeStruct::serialize_field(key: &'static str);
    SerializeStructVariant::serialize_field(key: &'static str);
}

impl<S: SerializeMap> SerializeMap for Checking<S> {
    type Ok = S::Ok;
    type Error = S::Error;

    /// Keys are text in the end, and serde_json has its own check of those that are numbers.
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), S::Error> {
        self.inner.serialize_key(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
        self.inner
            .serialize_value(&Checked::new(value, self.levels))
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.inner.end()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Serialize;
    use serde_json::{Value, json};

    use super::*;

    fn checked<T: Serialize>(value: &T, levels: usize) -> Result<String, String> {
        serde_json::to_string(&Checked::new(value, levels)).map_err(|error| error.to_string())
    }

    #[derive(Serialize)]
    struct Unit;

    #[derive(Serialize)]
    struct Newtype(f64);

    #[derive(Serialize)]
    struct Pair(f64, f64);

    #[derive(Serialize)]
    struct Named {
        number: Option<f32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        skipped: Option<u8>,
        #[serde(flatten)]
        more: BTreeMap<u8, f64>,
    }

    #[derive(Serialize)]
    enum Any {
        Unit,
        Newtype(f64),
        Pair(f64, f64),
        Named { number: f64 },
        Many(Vec<Any>),
        Plain((bool, i64, u64, i128, u128, char, String, Unit, ())),
        Of(Named, Newtype, Pair),
    }

    fn any(number: f64) -> Vec<Any> {
        vec![
            Any::Newtype(number),
            Any::Pair(0.5, number),
            Any::Named { number },
            Any::Many(vec![Any::Newtype(number)]),
            Any::Of(named(number), Newtype(0.0), Pair(0.0, 0.0)),
            Any::Of(named(0.0), Newtype(number), Pair(0.0, 0.0)),
            Any::Of(named(0.0), Newtype(0.0), Pair(number, 0.0)),
        ]
    }

    fn named(number: f64) -> Named {
        Named {
            number: Some(1.5),
            skipped: None,
            more: [(7, number)].into(),
        }
    }

    #[test]
    fn what_passes_is_as_serde_json_writes_it() {
        let text = "é\n".to_owned();
        let plain = (
            true,
            i64::MIN,
            u64::MAX,
            i128::MIN,
            u128::MAX,
            '"',
            text,
            Unit,
            (),
        );
        let mut all = any(-1e300);
        all.extend([Any::Unit, Any::Plain(plain)]);
        assert_eq!(checked(&all, 10), Ok(serde_json::to_string(&all).unwrap()));
    }

    #[test]
    fn a_number_that_is_not_finite_is_refused_wherever_it_is() {
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for value in any(number) {
                let error = checked(&value, 10).unwrap_err();
                assert!(error.ends_with("is not finite"), "{error}");
            }
            assert!(checked(&Some(number), 10).is_err());
            assert!(checked(&(number as f32), 10).is_err());
        }
    }

    #[test]
    fn levels_are_counted_as_the_brackets_that_are_written() {
        for value in any(1.0) {
            let text = serde_json::to_string(&value).unwrap();
            let mut depth = 0_usize;
            let depths = text.chars().map(|c| {
                match c {
                    '{' | '[' => depth += 1,
                    '}' | ']' => depth -= 1,
                    _ => {}
                }
                depth
            });
            let deepest = depths.max().unwrap();
            assert_eq!(checked(&value, deepest).as_ref(), Ok(&text));
            let error = checked(&value, deepest - 1).unwrap_err();
            assert_eq!(error, "nested too deep", "{text}");
        }
        let nested = |levels| (1..levels).fold(json!([]), |inner, _| json!([inner]));
        assert_eq!(checked(&nested(3), 3), Ok("[[[]]]".to_owned()));
        assert!(checked(&nested(4), 3).is_err());
        assert_eq!(checked(&Value::Null, 0), Ok("null".to_owned()));
    }
}
