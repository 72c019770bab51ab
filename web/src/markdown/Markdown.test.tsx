import { render } from "@testing-library/react";
import { expect, test } from "vitest";
import { Markdown } from "./Markdown";

const html = (text: string, streaming = false) =>
  render(<Markdown text={text} streaming={streaming} />).container.innerHTML;
test("all", () => {
  console.log(
    html(`# Title
Hello **bold** *em* ~~del~~ \`code\` https://example.com/a?b=c and <b>raw</b> a<br>b

- a
- [x] done
- [ ] open

1. x

   $$
   a - b
   - c
   $$
2. y \\(x_1\\) and \\[ z \\] and $a+b$ costs $5 and $6 and US$5

| a | b |
|--:|---|
| 1 | $x$ |

\`\`\`python
def f(): return 1
\`\`\`

\\[
E = mc^2
\\]

![alt](https://x.y/z.png) [bad](javascript:alert(1)) [good](mailto:a@b.c "t")

> quote
> $$
> x
> $$
`),
  );
});
