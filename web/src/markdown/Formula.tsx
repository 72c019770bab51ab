import { memo, useContext, useLayoutEffect, useRef } from "react";
import { loadKatex } from "./katex";
import { inSlices } from "./slices";
import { StillContext } from "./still";

/**
 * A formula. Its source is shown until KaTeX is there, and where KaTeX does not understand it.
 * unfinished: the model still writes it, so that it is not worth a try.
 */
export const Formula = memo(function Formula(props: { tex: string; display: boolean; unfinished?: boolean }) {
  const still = useContext(StillContext);
  const className = props.display ? "md-math md-math-display" : "md-math";
  if (still) {
    const html = still.formula(props.tex, props.display);
    if (html === null) return <code className={className}>{props.tex}</code>;
    // biome-ignore lint/security/noDangerouslySetInnerHtml: KaTeX's own output, which escapes the source
    return <span className={className} dangerouslySetInnerHTML={{ __html: html }} />;
  }
  if (props.unfinished) return <code className={`${className} md-tex`}>{props.tex}</code>;
  return <LiveFormula key={props.tex} className={className} tex={props.tex} display={props.display} />;
});

function LiveFormula({ tex, display, className }: { tex: string; display: boolean; className: string }) {
  const element = useRef<HTMLSpanElement>(null);
  useLayoutEffect(() => {
    const target = element.current;
    if (!target) return;
    const source = () => {
      target.textContent = tex;
      target.classList.add("md-tex");
    };
    let cancel = () => {};
    let gone = false;
    const draw = ({ render }: Awaited<ReturnType<typeof loadKatex>>) => {
      if (gone) return;
      cancel = inSlices(() => {
        target.classList.remove("md-tex");
        if (!render(tex, target, display)) source();
      });
    };
    const katex = loadKatex.now();
    if (!katex) source();
    // Without KaTeX (the server is gone) the source stays.
    if (katex) draw(katex);
    else void loadKatex().then(draw, () => {});
    return () => {
      gone = true;
      cancel();
    };
  }, [tex, display]);
  return <span ref={element} className={className} />;
}
