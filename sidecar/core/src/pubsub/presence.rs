//! `has(a.b)` of an `a` without fields is false, as the original's library says; ours says that this is an error. So it
//! is asked of maps only: `type(a) == map && has(a.b)`.

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, SelectExpr, operators};

/// Rewrites every such test within a rule.
pub(super) fn soften(expression: &mut IdedExpr) {
    match &mut expression.expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => {}
        Expr::Call(call) => {
            let target = call.target.as_deref_mut();
            target.into_iter().chain(&mut call.args).for_each(soften);
        }
        Expr::Comprehension(comprehension) => {
            soften(&mut comprehension.iter_range);
            soften(&mut comprehension.accu_init);
            soften(&mut comprehension.loop_cond);
            soften(&mut comprehension.loop_step);
            soften(&mut comprehension.result);
        }
        Expr::List(list) => list.elements.iter_mut().for_each(soften),
        Expr::Map(map) => map
            .entries
            .iter_mut()
            .map(|entry| &mut entry.expr)
            .for_each(entry),
        Expr::Struct(of) => of
            .entries
            .iter_mut()
            .map(|entry| &mut entry.expr)
            .for_each(entry),
        Expr::Select(select) => {
            // As it was written: tests within tests would double it at every level.
            let written = select.test.then(|| (*select.operand).clone());
            soften(&mut select.operand);
            if let Some(written) = written {
                expression.expr = of_a_map(expression.id, written, select.clone());
            }
        }
    }
}

fn entry(entry: &mut EntryExpr) {
    match entry {
        EntryExpr::StructField(field) => soften(&mut field.value),
        EntryExpr::MapEntry(entry) => {
            soften(&mut entry.key);
            soften(&mut entry.value);
        }
    }
}

fn of_a_map(id: u64, operand: IdedExpr, test: SelectExpr) -> Expr {
    let node = |expr| IdedExpr { id, expr };
    let call = |name: &str, args: Vec<IdedExpr>| {
        Expr::Call(CallExpr {
            func_name: name.to_owned(),
            target: None,
            args,
        })
    };
    let kind = node(call("type", vec![operand]));
    let is_map = node(call(
        operators::EQUALS,
        vec![kind, node(Expr::Ident("map".to_owned()))],
    ));
    call(
        operators::LOGICAL_AND,
        vec![is_map, node(Expr::Select(test))],
    )
}
