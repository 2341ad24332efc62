"""Config file + command line -> one complete, typed, locked ConfigDict, or the list of everything that is wrong with it.

`load("experiments/x.py:key=value", ["lr=1e-3"])` runs `get_config(arg)` of the file, lays its values over the defaults of
`core/fields.py`, completes every plug-in from its own signature, applies the overrides and checks the result. JAX is not imported.
Containers, types and placeholders are ml_collections'; its flag parser stops at the first mistake and cannot follow a changed plug-in
name, so overrides are parsed here.
"""

import difflib
import hashlib
import json
import pathlib
import runpy
import shlex
import traceback
from collections.abc import Iterator
from typing import Any

from ml_collections import config_dict

from decoder_lab.core import checks, fields, lookup, signatures
from decoder_lab.core import values as typed
from decoder_lab.core.errors import UserError, nearest
from decoder_lab.core.signatures import Field

GROUP = Field(dict)  # stands for a dict whose entries are settings of their own


def load(spec: str, overrides: list[str] = ()) -> config_dict.ConfigDict:
    """Returns the complete config of "file.py[:argument]" under "key=value" overrides. Errors: one UserError with every problem."""
    return resolve(read_file(spec), overrides, spec)


def read_file(spec: str) -> dict:
    """Runs `get_config(argument)` of "file.py[:argument]" and returns its value as a plain nested dict."""
    path, _, argument = spec.partition(":")
    if not pathlib.Path(path).is_file():
        near = difflib.get_close_matches(path, [str(p) for p in pathlib.Path(".").glob("experiments/**/*.py")], 3, 0.5)
        where = pathlib.Path(path).absolute()
        raise UserError(f"--config: there is no file {where}." + (f" Did you mean {' or '.join(near)}?" if near else ""))
    try:
        module = runpy.run_path(path)
        if "get_config" not in module:
            raise UserError(f"--config: {path} does not define get_config(arg).")
        takes = module["get_config"].__code__.co_argcount
        if argument and not takes:
            raise UserError(f'--config: get_config of {path} takes no argument, got ":{argument}".')
        config = module["get_config"](*([argument] if takes else []))
    except UserError:
        raise
    except Exception as error:
        where = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        line = f":{where[-1].lineno}" if where else ""
        raise UserError(f"--config: {path}{line} failed: {type(error).__name__}: {error}") from error
    return _plain(config)


def parse_argument(argument: str, **defaults: Any) -> config_dict.ConfigDict:
    """Parses the "key=value,key=value" after the colon of --config=file.py:... by the types of `defaults`; unknown keys are errors.

    A tuple among the defaults are the choices of a key, the first of them its default. A value with a comma stands in double quotes.
    """
    values = config_dict.ConfigDict({k: v[0] if isinstance(v, tuple) else v for k, v in defaults.items()})
    for item in _divided(argument):
        key, equals, text = item.partition("=")
        if key not in defaults:
            comma = "" if equals or item == argument else ' A value with a comma stands in double quotes: data="a,b".'
            raise UserError(f'config argument "{key}" is not known.{nearest(key, defaults)} Known: {", ".join(sorted(defaults))}.{comma}')
        try:
            values[key] = value = typed.parse(Field(type(values[key])), text if equals or not isinstance(values[key], bool) else "true")
        except ValueError as error:
            raise UserError(f"config argument {key}: got {text!r}, expected {type(values[key]).__name__}.") from error
        choices = defaults[key] if isinstance(defaults[key], tuple) else (value,)
        if value not in choices:
            raise UserError(f'config argument {key}: "{text}" is not known.{nearest(text, choices)} Known: {", ".join(map(str, choices))}.')
    return values


def _divided(argument: str) -> list[str]:
    """Returns the parts between commas that stand in no double quotes, and are not empty."""
    parts = shlex.shlex(argument, posix=True)
    parts.whitespace, parts.quotes, parts.escape, parts.commenters = ",", '"', "", ""
    parts.whitespace_split = True
    try:
        return list(filter(None, parts))
    except ValueError as error:
        raise UserError(f"config argument {argument}: a double quote is not closed.") from error


def resolve(delta: dict, overrides: list[str] = (), spec: str = "config") -> config_dict.ConfigDict:
    """Lays a nested dict and overrides over the defaults; returns the complete locked config. Errors: one UserError with all problems."""
    problems: list[str] = []
    pairs = _split_overrides(overrides, problems)
    values = _merge_known(delta, problems, spec)
    tree = _complete(values, pairs, problems, spec)
    checks.check(tree, problems)
    if problems:
        head = f"{spec} has {len(problems)} problem{'s' if len(problems) > 1 else ''}:"
        raise UserError("\n".join([head, *(f"  - {p}" for p in dict.fromkeys(problems))]))
    return _locked(tree)


def _split_overrides(overrides: list[str], problems: list[str]) -> dict[str, str]:
    pairs = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            problems.append(f"--config.{key}: expected --config.{key}=value.")
        pairs[key] = value
    return pairs


def _merge_known(delta: dict, problems: list[str], spec: str) -> dict[str, Any]:
    """Returns {dotted name of fields.FIELDS: value}, the defaults overlaid with the file's values."""
    values = {name: field.default for name, field in fields.FIELDS.items()}
    groups = {name.split(".")[0] for name in fields.FIELDS if "." in name}

    def put(name: str, value: Any) -> None:
        field = fields.FIELDS[name]
        if field.plugin and isinstance(value, str):
            value = dict(name=value, kw={})
        if field.type is dict or field.plugin:
            ok = isinstance(value, dict) or (value is None and field.optional)
        else:
            value, ok = typed.cast(field, value)
        if ok:
            values[name] = value
        else:
            problems.append(f"{name}: got {value!r}, expected {typed.type_name(field)}.")

    for key, value in delta.items():
        if key in fields.FIELDS:
            put(key, value)
        elif key in groups and isinstance(value, dict):
            for inner, item in value.items():
                if f"{key}.{inner}" in fields.FIELDS:
                    put(f"{key}.{inner}", item)
                else:
                    problems.append(_unknown(f"{key}.{inner}", fields.FIELDS, spec))
        else:
            problems.append(_unknown(key, {*fields.FIELDS, *groups}, spec))
    return values


def _renamed(plugin: dict, kind: str, name: str, problems: list[str]) -> dict:
    """Gives a plug-in another name; settings that the new one does not know, or whose values it does not take, go with the old one."""
    try:
        known, variants = lookup.fields(kind, name), lookup.variants(kind, name)
    except UserError as error:
        problems.append(str(error))
        return plugin
    kw = plugin.get("kw")
    if isinstance(kw, dict) and name != plugin["name"]:
        kw = {k: v for k, v in kw.items() if k in known and _fits(known[k], v) and (k != "variant" or v in variants)}
    return {**plugin, "name": name, "kw": kw}


def _fits(field: Field, value: Any) -> bool:
    """Whether a field takes a value; of nested plug-ins only the form is looked at."""
    if field.plugin or field.plugins:
        return isinstance(value, dict | str) or (value is None and field.optional)
    cast, ok = typed.cast(field, value)
    return ok and not typed.problems("", field, cast)


def _complete(values: dict[str, Any], pairs: dict[str, str], problems: list[str], spec: str) -> dict[str, tuple[Field, Any]]:
    """Returns {dotted path: (field, value)} of every setting, plug-ins completed and overrides applied."""
    tree: dict[str, tuple[Field, Any]] = {}
    for name, field in fields.FIELDS.items():
        value = values[name]
        if name == "optimizer.kw":
            plugin = dict(name=values["optimizer.name"], kw=value)
            if "optimizer.name" in pairs:
                plugin = _renamed(plugin, "optimizer", pairs.pop("optimizer.name"), problems)
                tree["optimizer.name"] = (fields.FIELDS["optimizer.name"], plugin["name"])
            _complete_kw("optimizer", "optimizer", plugin, pairs, tree, problems, spec)
        elif field.plugin:
            _complete_nested(name, field, value, pairs, tree, problems, spec)
        elif field.plugins:
            tree[name] = (field, {})
            for entry, plugin in value.items():
                _complete_plugin(f"{name}.{entry}", field.plugins, plugin, pairs, tree, problems, spec, fields.EXTRA_KEYS.get(name, {}))
        else:
            tree[name] = (field, value)
    for key, text in pairs.items():
        _override(tree, key, text, problems)
    return tree


def _override(tree: dict[str, tuple[Field, Any]], key: str, text: str, problems: list[str]) -> None:
    """Applies one `key=text` to the tree; below a free-form dict any key may be set."""
    if key in tree and tree[key][0] is not GROUP:
        try:
            tree[key] = (tree[key][0], typed.parse(tree[key][0], text))
        except ValueError:
            problems.append(f"--config.{key}: got {text!r}, expected {typed.type_name(tree[key][0])}.")
        return
    free = [p for p, (f, _) in tree.items() if f.type is dict and f is not GROUP and not f.plugins and key.startswith(p + ".")]
    if free and tree[free[0]][1] is None:
        problems.append(f"--config.{key}: {free[0]} is not set; choose one first, by --config.{free[0]}.name=NAME.")
    elif free:
        field, value = tree[free[0]]
        tree[free[0]] = (field, {**value, key[len(free[0]) + 1 :]: typed.literal(text)})
    elif inside := [path for path in tree if path.startswith(key + ".") and tree[path][0] is not GROUP]:
        problems.append(f"--config.{key} is a group of settings; set one of them, such as --config.{inside[0]}={tree[inside[0]][1]!r}.")
    else:
        problems.append(f"--config.{key} is not known{_settings_beside(key, tree)}.{_nearest_path(key, tree)}")


def _settings_beside(key: str, tree: dict[str, tuple[Field, Any]]) -> str:
    """Returns " (name has: settings)" of the plug-in whose setting `key` would be, or "" where it is none's."""
    path, found, _ = key.rpartition(".kw.")
    if not found or f"{path}.name" not in tree or not isinstance(name := tree[f"{path}.name"][1], str):
        return ""
    settings = dict.fromkeys(p[len(path) + 4 :].split(".")[0] for p in tree if p.startswith(f"{path}.kw."))
    return f" ({name} has {', '.join(settings) or 'no settings'})"


def _complete_plugin(path, kind, plugin, pairs, tree, problems, spec, extra=None) -> None:
    """Adds one plug-in, `dict(name, kw)` and its extra keys, to the tree, each of its fields typed; an override of its name comes first."""
    extra = extra or {}
    plugin = dict(name=plugin, kw={}) if isinstance(plugin, str) else plugin
    if not isinstance(plugin, dict) or not isinstance(plugin.get("name"), str):
        problems.append(f'{path}: got {plugin!r}, expected dict(name="...", kw=dict(...)).')
        return
    if f"{path}.name" in pairs:
        plugin = _renamed(plugin, kind, pairs.pop(f"{path}.name"), problems)
    for key in plugin.keys() - {"name", "kw"} - extra.keys():
        problems.append(_unknown(f"{path}.{key}", [f"{path}.{k}" for k in ("name", "kw", *extra)], spec))
    tree[f"{path}.name"] = (Field(str), plugin["name"])
    for key, field in extra.items():
        _put(f"{path}.{key}", field, plugin.get(key, field.default), tree, problems)
    _complete_kw(path, kind, plugin, pairs, tree, problems, spec)


def _complete_kw(path, kind, plugin, pairs, tree, problems, spec) -> None:
    try:
        known = lookup.fields(kind, plugin["name"])
        table = lookup.variants(kind, plugin["name"])
    except UserError as error:
        problems.append(f"{path}: {error}")
        return
    chosen = {} if plugin.get("kw") is None else plugin["kw"]
    if not isinstance(chosen, dict):
        problems.append(f"{path}.kw: got {chosen!r}, expected dict(...).")
        return
    variant = pairs.get(f"{path}.kw.variant", chosen.get("variant", ""))
    if variant and table and variant not in table:
        problems.append(f'{path}.kw.variant: "{variant}" is not known.{nearest(variant, table)} Known: {", ".join(table)}.')
    for key in chosen.keys() - known.keys():
        problems.append(_unknown(f"{path}.kw.{key}", [f"{path}.kw.{k}" for k in known], spec, f" ({kind} {plugin['name']})"))
    tree.setdefault(f"{path}.kw", (GROUP, {}))
    for key, field in known.items():
        value = table.get(variant, {}).get(key, field.default)
        value = _overlaid(value, chosen[key], field.plugin) if key in chosen else value
        where = f"{path}.kw.{key}"
        if value is signatures.UNREADABLE and where not in pairs:
            continue
        if field.plugin or field.plugins:
            _complete_nested(where, field, value, pairs, tree, problems, spec)
            continue
        _put(where, field, None if value is signatures.UNREADABLE else value, tree, problems)


def _put(path, field, value, tree, problems) -> None:
    cast, ok = typed.cast(field, value)
    if not ok:
        problems.append(f"{path}: got {value!r}, expected {typed.type_name(field)}.")
    tree[path] = (field, cast)


def _overlaid(below: Any, value: Any, kind: str | None) -> Any:
    """Returns a field's value; a nested plug-in (of `kind`) goes over the variant's or default's of the same name, or where it has none.

    So do plug-ins nested in it, at every depth.
    """
    if not (kind and isinstance(below, dict) and isinstance(value, dict) and value.get("name", below["name"]) == below["name"]):
        return value
    above = {} if value.get("kw") is None else value["kw"]
    if not isinstance(above, dict):
        return {**below, **value}
    try:
        known = lookup.fields(kind, below["name"])
    except UserError:  # said where the plug-in is completed
        known = {}
    kw = dict(below.get("kw") or {})
    for key, inner in above.items():
        kw[key] = _overlaid(kw[key], inner, known[key].plugin if key in known else None) if key in kw else inner
    return {**below, **value, "kw": kw}


def _complete_nested(where, field, value, pairs, tree, problems, spec) -> None:
    if field.plugin and value is None and field.optional and f"{where}.name" not in pairs:
        tree[where] = (field, None)
        return
    if field.plugin:
        value = dict(name=pairs[f"{where}.name"], kw={}) if value is None and field.optional else value
        _complete_plugin(where, field.plugin, value, pairs, tree, problems, spec)
        return
    tree[where] = (GROUP, {})
    if value is not None and not isinstance(value, dict):
        problems.append(f"{where}: got {value!r}, expected dict(...) of plug-ins by name.")
        return
    for entry, plugin in (value or {}).items():
        _complete_plugin(f"{where}.{entry}", field.plugins, plugin, pairs, tree, problems, spec)


def _locked(tree: dict[str, tuple[Field, Any]]) -> config_dict.ConfigDict:
    nested = checks.nested(tree)
    for path, (field, value) in tree.items():
        if value is None and field.type is not None:
            node = nested
            *parents, leaf = path.split(".")
            for part in parents:
                node = node[part]
            node[leaf] = config_dict.placeholder(field.type)
    config = config_dict.ConfigDict(nested, allow_dotted_keys=True)  # regexes are keys too
    config.lock()
    return config


def _unknown(path: str, known: Any, spec: str, where: str = "") -> str:
    return f"{spec}: {path} is not known{where}.{_nearest_path(path, known)}"


def _nearest_path(path: str, known: Any) -> str:
    """Nearest known dotted path: by the whole path first, then by its last part."""
    whole = nearest(path, known)
    if whole:
        return whole
    last = {k.rsplit(".", 1)[-1]: k for k in known}
    near = difflib.get_close_matches(path.rsplit(".", 1)[-1], list(last), n=1, cutoff=0.6)
    return f' Did you mean "{last[near[0]]}"?' if near else ""


def _plain(config: Any) -> Any:
    """ConfigDict (references resolved), lists and tuples -> plain dicts and tuples."""
    if isinstance(config, config_dict.ConfigDict):
        config = config.to_dict()
    if isinstance(config, dict):
        return {k: _plain(v) for k, v in config.items()}
    return tuple(_plain(v) for v in config) if isinstance(config, list | tuple) else config


def to_json(config: config_dict.ConfigDict) -> str:
    """Returns the config as indented JSON, keys sorted: what is written into the workdir and hashed."""
    return json.dumps(_plain(config), indent=2, sort_keys=True)


def from_json(text: str) -> config_dict.ConfigDict:
    """Rebuilds the complete config from `to_json`; it is checked like a file, so a workdir of other code says what it no longer knows."""
    return resolve(json.loads(text), spec="saved config")


def digest(config: config_dict.ConfigDict) -> str:
    """Returns a 12-digit hash of the config."""
    return hashlib.sha256(to_json(config).encode()).hexdigest()[:12]


def flat(config: config_dict.ConfigDict) -> Iterator[tuple[str, Any]]:
    """Yields (dotted path, value) of every setting, in order."""

    def walk(prefix: str, node: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(node, dict) and node:
            for key in sorted(node):
                yield from walk(f"{prefix}.{key}" if prefix else key, node[key])
        else:
            yield prefix, node

    yield from walk("", _plain(config))


def differences(old: config_dict.ConfigDict, new: config_dict.ConfigDict) -> list[str]:
    """Returns one line for each setting that differs between two configs."""
    a, b = dict(flat(old)), dict(flat(new))
    missing = "(not there)"
    keys = sorted(a.keys() | b.keys())
    return [f"{k}: {a.get(k, missing)!r} -> {b.get(k, missing)!r}" for k in keys if a.get(k, missing) != b.get(k, missing)]
