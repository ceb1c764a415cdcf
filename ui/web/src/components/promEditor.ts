// The PromQL editor. It lives in a shadow root because CodeMirror then puts its style rules into adopted style
// sheets, which the content security policy allows; in the document it would need a style element.
import {
  autocompletion,
  closeBrackets,
  closeBracketsKeymap,
  completionKeymap,
} from '@codemirror/autocomplete';
import { defaultKeymap, history, historyKeymap, insertNewlineAndIndent } from '@codemirror/commands';
import { bracketMatching, HighlightStyle, syntaxHighlighting } from '@codemirror/language';
import { type Diagnostic, setDiagnostics } from '@codemirror/lint';
import { EditorState, Prec } from '@codemirror/state';
import { EditorView, keymap, placeholder } from '@codemirror/view';
import { tags } from '@lezer/highlight';
import { PromQLExtension } from '@prometheus-io/codemirror-promql';

const colors = HighlightStyle.define([
  { tag: tags.variableName, color: 'var(--text)' },
  { tag: tags.keyword, color: 'var(--s6)' },
  { tag: tags.function(tags.variableName), color: 'var(--s1)' },
  { tag: tags.labelName, color: 'var(--s3)' },
  { tag: tags.string, color: 'var(--s2)' },
  { tag: tags.number, color: 'var(--s5)' },
  { tag: tags.modifier, color: 'var(--s6)' },
  { tag: tags.operator, color: 'var(--muted)' },
  { tag: tags.comment, color: 'var(--muted)', fontStyle: 'italic' },
  { tag: tags.invalid, color: 'var(--crit-text)' },
]);

const theme = EditorView.theme({
  '&': { fontSize: '13px', color: 'var(--text)', backgroundColor: 'transparent' },
  '&.cm-focused': { outline: 'none' },
  '.cm-content': { fontFamily: 'var(--font-mono)', padding: '6px 4px', caretColor: 'var(--text)' },
  '.cm-scroller': { fontFamily: 'var(--font-mono)', lineHeight: '20px' },
  '.cm-cursor': { borderLeftColor: 'var(--text)' },
  '.cm-placeholder': { color: 'var(--muted)' },
  '.cm-tooltip': {
    backgroundColor: 'var(--card)',
    color: 'var(--text)',
    border: '1px solid var(--line)',
    borderRadius: '6px',
    boxShadow: 'var(--shadow)',
    maxWidth: 'min(640px, 90vw)',
  },
  '.cm-tooltip.cm-tooltip-autocomplete > ul': {
    fontFamily: 'var(--font-mono)',
    fontSize: '12px',
    maxHeight: '18em',
  },
  '.cm-tooltip-autocomplete ul li[aria-selected]': { backgroundColor: 'var(--select)', color: 'var(--text)' },
  '.cm-completionDetail': { color: 'var(--muted)', fontStyle: 'normal' },
  '.cm-completionInfo': { padding: '6px 8px', fontFamily: 'var(--font-sans)', fontSize: '12px' },
  '.cm-matchingBracket': { backgroundColor: 'var(--select)', outline: 'none' },
  // The package draws its wave with a data: image, which the policy forbids.
  '.cm-lintRange-error': {
    backgroundImage: 'none',
    textDecoration: 'underline wavy var(--crit)',
    textUnderlineOffset: '3px',
  },
  '.cm-diagnostic-error': { borderLeftColor: 'var(--crit)' },
});

export interface PromEditor {
  set(query: string): void;
  focus(): void;
  /** Underlines the character at offset (UTF-16), or clears the mark with null. */
  mark(at: number | null, message: string): void;
  destroy(): void;
}

export function mountPromEditor(
  host: HTMLElement,
  o: { value: string; label: string; hint: string; onChange(v: string): void; onRun(): void },
): PromEditor {
  const root = host.shadowRoot ?? host.attachShadow({ mode: 'open' });
  root.replaceChildren();
  const parent = document.createElement('div');
  root.append(parent);
  const promql = new PromQLExtension().activateLinter(false).setComplete({
    remote: { url: '', lookbackInterval: 3600_000, cache: { maxAge: 300_000 }, httpErrorHandler: () => {} },
  });
  const run = () => {
    o.onRun();
    return true;
  };
  const view = new EditorView({
    root,
    parent,
    state: EditorState.create({
      doc: o.value,
      extensions: [
        history(),
        bracketMatching(),
        closeBrackets(),
        autocompletion({ icons: false }),
        promql.asExtension(),
        syntaxHighlighting(colors),
        theme,
        placeholder(o.hint),
        EditorView.lineWrapping,
        EditorView.contentAttributes.of({
          'aria-label': o.label,
          spellcheck: 'false',
          autocapitalize: 'none',
        }),
        EditorView.updateListener.of((u) => {
          if (u.docChanged) o.onChange(u.state.doc.toString());
        }),
        keymap.of([...closeBracketsKeymap, ...completionKeymap]),
        Prec.low(keymap.of([{ key: 'Enter', run, shift: insertNewlineAndIndent }])),
        Prec.high(keymap.of([{ key: 'Mod-Enter', run }])),
        keymap.of([...historyKeymap]),
        Prec.lowest(keymap.of(defaultKeymap)),
      ],
    }),
  });
  return {
    set(query) {
      if (query !== view.state.doc.toString())
        view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: query } });
    },
    focus: () => view.focus(),
    mark(at, message) {
      const end = view.state.doc.length;
      const marks: Diagnostic[] =
        at === null || end === 0
          ? []
          : [{ from: Math.min(at, end - 1), to: Math.min(at + 1, end), severity: 'error', message }];
      view.dispatch(setDiagnostics(view.state, marks));
    },
    destroy: () => view.destroy(),
  };
}
