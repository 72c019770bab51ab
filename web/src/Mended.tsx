/** A page that breaks, as when its files are those of a version that the server no longer has, says so. */

import { Component, type ReactNode } from "react";
import { useLocation } from "wouter";
import { useTexts } from "./i18n";

export function Mended({ children }: { children: ReactNode }) {
  const [address] = useLocation();
  return <Boundary address={address}>{children}</Boundary>;
}

/** Another address is tried anew. */
class Boundary extends Component<{ address: string; children: ReactNode }, { brokenAt: string | null }> {
  override state = { brokenAt: null };

  static getDerivedStateFromError() {
    return { brokenAt: window.location.pathname };
  }

  override componentDidUpdate() {
    const { brokenAt } = this.state;
    if (brokenAt !== null && brokenAt !== this.props.address) this.setState({ brokenAt: null });
  }

  override render() {
    return this.state.brokenAt === null ? this.props.children : <Broken />;
  }
}

function Broken() {
  const t = useTexts();
  return (
    <main className="notice" role="alert">
      <p>{t.pageBroken}</p>
      <button type="button" onClick={() => window.location.reload()}>
        {t.loadAgain}
      </button>
    </main>
  );
}
