export default function ProgramsPage() {
  return null;
}
