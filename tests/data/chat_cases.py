"""Chat templates of the usual kinds and conversations for them.

`python tests/data/chat_cases.py`, where there is transformers, writes what it makes of them.
"""

import json
import pathlib

FIXTURE = pathlib.Path(__file__).parent / "fixtures" / "chat.json"
SPECIAL = {"bos": "<s>", "eos": "</s>"}
TEMPLATES = {
    "chatml": (
        "{% for message in messages %}\n"
        "    {{- '<|im_start|>' + message['role'] + '\\n' }}\n"
        "    {%- if message.role == 'assistant' %}\n"
        "{% generation %}{{ message.content + '<|im_end|>\\n' }}{% endgeneration %}\n"
        "    {%- else %}\n"
        "        {{- message.content + '<|im_end|>\\n' }}\n"
        "    {%- endif %}\n"
        "{% endfor %}\n"
        "{% if add_generation_prompt %}\n{{ '<|im_start|>assistant\\n' }}\n{%- endif %}"
    ),
    "llama2": (
        "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}{% set rest = messages[1:] %}"
        "{% else %}{% set system = none %}{% set rest = messages %}{% endif %}"
        "{% for message in rest %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
        "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' }}"
        "{% if loop.first and system is not none %}{{ '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' }}{% endif %}"
        "{{ message['content'].strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "tools": (
        "{{- bos_token }}\n{%- if tools %}\n{% for tool in tools %}\n{{ tool | tojson(indent=2) }}\n{% endfor %}\n{%- endif %}\n"
        "{%- for message in messages %}\n{% if message.role == 'system' %}{% continue %}{% endif %}\n"
        "{{ message.role }}: {{ message.content | tojson }}\n{% endfor %}"
    ),
}
CONVERSATIONS = {
    "short": [{"role": "user", "content": " What is <b>1 & 1</b>?"}],
    "long": [
        {"role": "system", "content": " Be brief. "},
        {"role": "user", "content": "Ünï 漢字"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": 'and "three"?\n'},
        {"role": "assistant", "content": "Four."},
    ],
}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "add", "description": "a & b", "parameters": {"type": "object", "properties": {"a": {"type": "number"}}}},
    }
]
CASES = [(t, c, prompt) for t in TEMPLATES for c in CONVERSATIONS for prompt in (False, True)]

if __name__ == "__main__":
    from transformers.utils.chat_template_utils import render_jinja_template

    found = {}
    for template, conversation, prompt in CASES:
        given = dict(add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>")
        marks = template == "chatml"
        texts, spans = render_jinja_template(
            [CONVERSATIONS[conversation]],
            tools=TOOLS if template == "tools" else None,
            chat_template=TEMPLATES[template],
            return_assistant_tokens_mask=marks,
            **given,
        )
        found[f"{template} {conversation} {prompt}"] = [texts[0], [list(s) for s in spans[0]] if marks else []]
    FIXTURE.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
