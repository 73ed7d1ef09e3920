// Ask by nomad-client of npm.
import { NomadClient } from "nomad-client";

const facts = JSON.parse(process.argv[2]);
const client = new NomadClient({ baseUrl: process.env.NOMAD_ADDR });

async function tell(question: string, call: string, ask: () => Promise<unknown>): Promise<void> {
  let line: object;
  try {
    line = { got: await ask() };
  } catch (problem: any) {
    const status = /\b[45]\d\d\b/.exec(String(problem));
    line = { error: status ? `${status[0]}: ${problem.name}` : problem.name };
  }
  console.log(JSON.stringify({ question, call, ...line }));
}

const ids = (entries: any[]) => entries.map((entry) => entry.ID).sort();

function comparable(alloc: any) {
  const events: any = {};
  for (const [name, state] of Object.entries<any>(alloc.TaskStates)) events[name] = state.Events.map((e: any) => e.Type);
  const { ID, JobID, ClientStatus, ModifyIndex } = alloc;
  return { ID, JobID, ClientStatus, ModifyIndex, Events: events };
}

async function main() {
  const { alloc, other, task, job } = facts;
  await tell("list", "allocations.list", async () => ids((await client.allocations.list()).data));
  await tell("prefix", "allocations.list(prefix)", async () =>
    ids((await client.allocations.list({ prefix: alloc.slice(0, 8) } as any)).data));
  await tell("read", "allocations.get", async () => comparable(await client.allocations.get(alloc)));
  await tell("jobs", "jobs.list", async () => ids((await client.jobs.list()).data as any[]));
  await tell("job", "jobs.get", async () => {
    const told: any = await client.jobs.get(job);
    return [told.ID, told.Version, told.Status];
  });
  await tell("allocations of a job", "jobs.allocations", async () => ids(await client.jobs.allocations(job)));
  await tell("summary", "jobs.summary", async () => ((await client.jobs.summary(job)) as any).Summary.g.Running);
  await tell("use of what has ended", "allocations.stats", async () => (await client.allocations.stats(facts.ended_alloc)).Tasks);
  await tell("logs", "tasks.getLogs", async () => (await client.tasks.getLogs(alloc, task, "stdout")).stdout);
  await tell("evaluations", "jobs.evaluations", async () => ids(await client.jobs.evaluations(job)));
  await tell("restart", "allocations.restart", async () => {
    await client.allocations.restart(other);
    const events = (await client.allocations.get(other)).TaskStates[task].Events as any[];
    return events.map((event) => event.Type).includes("Restart Signaled");
  });
  await tell("stop", "allocations.stop", async () => {
    const answer: any = await client.allocations.stop(alloc);
    return [answer.EvalID.length, (await client.allocations.get(alloc)).DesiredStatus];
  });
}

main();
