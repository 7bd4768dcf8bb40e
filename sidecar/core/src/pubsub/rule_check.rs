//! What is wrong with a rule, whatever event may come: names nobody declares, and operands that fit no operator. As far
//! as types can be known: what an event holds is of any type.

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators,
};

/// The variable that holds the event.
const EVENT: &str = "event";

/// Types by their names.
const TYPES: [&str; 13] = [
    "bool",
    "bytes",
    "double",
    "duration",
    "dyn",
    "int",
    "list",
    "map",
    "null_type",
    "string",
    "timestamp",
    "type",
    "uint",
];
/// Functions of the standard library by their names, with what they make.
const FUNCTIONS: [(&str, Kind); 32] = [
    ("bool", Kind::Bool),
    ("bytes", Kind::Bytes),
    ("contains", Kind::Bool),
    ("double", Kind::Double),
    ("duration", Kind::Duration),
    ("dyn", Kind::Any),
    ("endsWith", Kind::Bool),
    ("getDate", Kind::Int),
    ("getDayOfMonth", Kind::Int),
    ("getDayOfWeek", Kind::Int),
    ("getDayOfYear", Kind::Int),
    ("getFullYear", Kind::Int),
    ("getHours", Kind::Int),
    ("getMilliseconds", Kind::Int),
    ("getMinutes", Kind::Int),
    ("getMonth", Kind::Int),
    ("getSeconds", Kind::Int),
    ("has", Kind::Bool),
    ("hasValue", Kind::Bool),
    ("int", Kind::Int),
    ("matches", Kind::Bool),
    ("none", Kind::Any),
    ("of", Kind::Any),
    ("ofNonZeroValue", Kind::Any),
    ("or", Kind::Any),
    ("orValue", Kind::Any),
    ("size", Kind::Int),
    ("startsWith", Kind::Bool),
    ("string", Kind::String),
    ("timestamp", Kind::Timestamp),
    ("type", Kind::Type),
    ("uint", Kind::Uint),
];
/// Numbers of all kinds can be compared, but not be added to each other.
const NUMBERS: [Kind; 3] = [Kind::Double, Kind::Int, Kind::Uint];
/// Functions that only texts have.
const OF_TEXTS: [&str; 4] = ["contains", "endsWith", "matches", "startsWith"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Not known before there is an event.
    Any,
    Bool,
    Bytes,
    Double,
    Duration,
    Int,
    List,
    Map,
    Null,
    String,
    Timestamp,
    Type,
    Uint,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Any => "dyn",
            Self::Bool => "bool",
            Self::Bytes => "bytes",
            Self::Double => "double",
            Self::Duration => "duration",
            Self::Int => "int",
            Self::List => "list",
            Self::Map => "map",
            Self::Null => "null",
            Self::String => "string",
            Self::Timestamp => "timestamp",
            Self::Type => "type",
            Self::Uint => "uint",
        }
    }

    fn may_be(self, others: &[Self]) -> bool {
        self == Self::Any || others.contains(&self)
    }
}

/// Checks a rule that could be parsed; the error is for the person who wrote it.
pub(super) fn check(rule: &IdedExpr) -> Result<(), String> {
    typed(rule, &mut Vec::new()).map(drop)
}

/// The type of an expression, among variables that are bound around it.
fn typed<'a>(expression: &'a IdedExpr, bound: &mut Vec<&'a str>) -> Result<Kind, String> {
    match &expression.expr {
        Expr::Unspecified | Expr::Struct(_) => Ok(Kind::Any),
        Expr::Literal(literal) => Ok(match literal {
            LiteralValue::Boolean(_) => Kind::Bool,
            LiteralValue::Bytes(_) => Kind::Bytes,
            LiteralValue::Double(_) => Kind::Double,
            LiteralValue::Int(_) => Kind::Int,
            LiteralValue::Null => Kind::Null,
            LiteralValue::String(_) => Kind::String,
            LiteralValue::UInt(_) => Kind::Uint,
        }),
        Expr::Ident(name) if name == EVENT => Ok(Kind::Map),
        Expr::Ident(name) if bound.contains(&name.as_str()) => Ok(Kind::Any),
        Expr::Ident(name) if TYPES.contains(&name.as_str()) => Ok(Kind::Type),
        Expr::Ident(name) => Err(undeclared(name)),
        Expr::Select(select) => {
            let operand = typed(&select.operand, bound)?;
            if !operand.may_be(&[Kind::Map]) {
                let name = operand.name();
                return Err(format!("type '{name}' does not support field selection"));
            }
            Ok(if select.test { Kind::Bool } else { Kind::Any })
        }
        Expr::List(list) => {
            all(&list.elements, bound)?;
            Ok(Kind::List)
        }
        Expr::Map(map) => {
            for entry in &map.entries {
                if let EntryExpr::MapEntry(entry) = &entry.expr {
                    typed(&entry.key, bound)?;
                    typed(&entry.value, bound)?;
                }
            }
            Ok(Kind::Map)
        }
        Expr::Comprehension(comprehension) => {
            let before = bound.len();
            let outcome = comprehended(comprehension, bound);
            bound.truncate(before);
            outcome
        }
        Expr::Call(call) => called(call, bound),
    }
}

fn all<'a>(expressions: &'a [IdedExpr], bound: &mut Vec<&'a str>) -> Result<Vec<Kind>, String> {
    expressions.iter().map(|each| typed(each, bound)).collect()
}

fn comprehended<'a>(
    comprehension: &'a ComprehensionExpr,
    bound: &mut Vec<&'a str>,
) -> Result<Kind, String> {
    let range = typed(&comprehension.iter_range, bound)?;
    if !range.may_be(&[Kind::List, Kind::Map]) {
        let name = range.name();
        return Err(format!(
            "expression of type '{name}' cannot be range of a comprehension"
        ));
    }
    typed(&comprehension.accu_init, bound)?;
    bound.push(&comprehension.iter_var);
    bound.extend(comprehension.iter_var2.as_deref());
    bound.push(&comprehension.accu_var);
    typed(&comprehension.loop_cond, bound)?;
    typed(&comprehension.loop_step, bound)?;
    typed(&comprehension.result, bound)
}

fn called<'a>(call: &'a CallExpr, bound: &mut Vec<&'a str>) -> Result<Kind, String> {
    let name = call.func_name.as_str();
    let mut operands = Vec::new();
    if let Some(target) = call
        .target
        .as_deref()
        .filter(|target| !is_namespace(target))
    {
        operands.push(typed(target, bound)?);
    }
    operands.extend(all(&call.args, bound)?);
    let misfit = || {
        let names: Vec<&str> = operands.iter().map(|operand| operand.name()).collect();
        let names = names.join(", ");
        Err(format!(
            "found no matching overload for '{name}' applied to '({names})'"
        ))
    };
    let fits = |types: &[Kind]| operands.iter().all(|operand| operand.may_be(types));
    let known = operands
        .iter()
        .copied()
        .filter(|operand| *operand != Kind::Any);
    let known: Vec<Kind> = known.collect();
    let is_one = known.windows(2).all(|pair| pair[0] == pair[1]);
    let are_numbers = fits(&NUMBERS);
    // With a part that is not known, neither is the whole.
    let made = match known.first() {
        Some(kind) if known.len() == operands.len() => *kind,
        _ => Kind::Any,
    };
    match name {
        operators::LOGICAL_AND | operators::LOGICAL_OR | operators::LOGICAL_NOT => {
            if fits(&[Kind::Bool]) {
                return Ok(Kind::Bool);
            }
            misfit()
        }
        operators::EQUALS | operators::NOT_EQUALS => {
            if is_one || are_numbers || known.contains(&Kind::Null) {
                return Ok(Kind::Bool);
            }
            misfit()
        }
        operators::LESS
        | operators::LESS_EQUALS
        | operators::GREATER
        | operators::GREATER_EQUALS => {
            const ORDERED: [Kind; 8] = [
                Kind::Bool,
                Kind::Bytes,
                Kind::Double,
                Kind::Duration,
                Kind::Int,
                Kind::String,
                Kind::Timestamp,
                Kind::Uint,
            ];
            if are_numbers || (is_one && fits(&ORDERED)) {
                return Ok(Kind::Bool);
            }
            misfit()
        }
        operators::ADD | operators::SUBSTRACT => {
            let of_time = fits(&[Kind::Timestamp, Kind::Duration]);
            const ADDED: [Kind; 6] = [
                Kind::Double,
                Kind::Int,
                Kind::Uint,
                Kind::Bytes,
                Kind::List,
                Kind::String,
            ];
            let types: &[Kind] = if name == operators::ADD {
                &ADDED
            } else {
                &NUMBERS
            };
            if of_time {
                return Ok(Kind::Any);
            }
            if is_one && fits(types) {
                return Ok(made);
            }
            misfit()
        }
        operators::MULTIPLY | operators::DIVIDE | operators::MODULO | operators::NEGATE => {
            if is_one && are_numbers {
                return Ok(made);
            }
            misfit()
        }
        operators::CONDITIONAL => match operands[..] {
            [condition, ..] if !condition.may_be(&[Kind::Bool]) => misfit(),
            [_, left, right] if left == right => Ok(left),
            _ => Ok(Kind::Any),
        },
        operators::IN => match operands[..] {
            [_, range] if !range.may_be(&[Kind::List, Kind::Map]) => misfit(),
            _ => Ok(Kind::Bool),
        },
        operators::INDEX | operators::OPT_INDEX => match operands[..] {
            [range, _] if !range.may_be(&[Kind::List, Kind::Map]) => misfit(),
            _ => Ok(Kind::Any),
        },
        // What macros and optional values are made of.
        operators::OPT_SELECT => Ok(Kind::Any),
        _ if name.starts_with('@') => Ok(Kind::Any),
        _ => match FUNCTIONS.iter().find(|(known, _)| *known == name) {
            None => Err(undeclared(name)),
            Some(_) if OF_TEXTS.contains(&name) && !fits(&[Kind::String]) => misfit(),
            Some((_, made)) => Ok(*made),
        },
    }
}

/// Whether functions are looked up in it, as `optional` in `optional.of(1)`.
fn is_namespace(target: &IdedExpr) -> bool {
    matches!(&target.expr, Expr::Ident(name) if name == "optional")
}

fn undeclared(name: &str) -> String {
    format!("undeclared reference to '{name}'")
}

#[cfg(test)]
mod tests {
    use cel::Program;

    use super::*;

    fn checked(rule: &str) -> Result<(), String> {
        let program = Program::compile(rule).map_err(|error| error.to_string())?;
        check(program.expression())
    }

    #[test]
    fn rules_that_may_hold() {
        for rule in [
            "true",
            "event.type == 'a' && event.data.n > 5",
            "event.data.n > 5 || event.data.n < 1.5 || !(event.data.flag)",
            "has(event.data) && event.data.tags.exists(t, t == 'x' && size(t) > 0)",
            "event.data.tags.all(t, t in ['a', 'b']) && event.data.items.map(i, i.n + 1).size() == 2",
            "event.data.list.filter(i, i > 1).exists_one(j, j == 2)",
            "event['type'] == 'a' && event.data[0] == 1",
            "event.type.startsWith('a') && event.type.matches('^a+$') && 'abc'.contains('b')",
            "event.data.n * 2 > 3.5 && event.data.n + 1 == 2.5 && 1 < 1.5",
            "size(event.type) + 1 == 2 && 'a' + 'b' == 'ab' && [1] + [2] == [1, 2]",
            "int(event.data.n) % 2 == 0 && -event.data.n < 0 && string(1) == '1'",
            "event.data.n == null || type(event.data.n) == int",
            "(event.data.n > 1 ? 'a' : 'b') == 'a'",
            "timestamp(event.time) > timestamp('2020-01-01T00:00:00Z') + duration('1h')",
            "timestamp(event.time).getFullYear() == 2026",
            "{'a': event.data.n}.a == 1 && 'a' in {'a': 1}",
        ] {
            assert_eq!(checked(rule), Ok(()), "{rule}");
        }
    }

    #[test]
    fn rules_that_never_hold() {
        let check = |rule: &str, expected: &str| {
            assert_eq!(checked(rule), Err(expected.to_owned()), "{rule}");
        };
        let misfit = |function: &str, operands: &str| {
            format!("found no matching overload for '{function}' applied to '({operands})'")
        };
        check("1 + 'a' == 2", &misfit("_+_", "int, string"));
        check("event.type == 'a' && 5", &misfit("_&&_", "bool, int"));
        check("!'a'", &misfit("!_", "string"));
        check("1 == 'a'", &misfit("_==_", "int, string"));
        check("event < 1", &misfit("_<_", "map, int"));
        check("'a' - 'b' == ''", &misfit("_-_", "string, string"));
        check("1 + 1.5 == 2.5", &misfit("_+_", "int, double"));
        check("-true", &misfit("-_", "bool"));
        check("1 in 'abc'", &misfit("@in", "int, string"));
        check("1 ? true : false", &misfit("_?_:_", "int, bool, bool"));
        check("1.startsWith('a')", &misfit("startsWith", "int, string"));
        check("nofunc(event.type)", "undeclared reference to 'nofunc'");
        check("event.type == a", "undeclared reference to 'a'");
        check("[1].exists(i, j == i)", "undeclared reference to 'j'");
        check(
            "'a'.b == 1",
            "type 'string' does not support field selection",
        );
        check(
            "1.exists(i, i == 1)",
            "expression of type 'int' cannot be range of a comprehension",
        );
    }
}
