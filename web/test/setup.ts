/** Before each file of tests: what is waited for may come as late as a busy machine lets it; a test's own limit ends what hangs. */

import { configure } from "@testing-library/react";

configure({ asyncUtilTimeout: 30_000 });
