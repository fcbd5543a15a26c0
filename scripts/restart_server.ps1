# Restart daemon and facade. Same code as ./scripts/restart_server.
$project = Join-Path $PSScriptRoot 'project.py'
if ($env:VIRTUAL_ENV) { & (Join-Path $env:VIRTUAL_ENV 'Scripts\python.exe') $project restart_server @args }
elseif (Get-Command py -ErrorAction SilentlyContinue) { & py -3 $project restart_server @args }
else { & python $project restart_server @args }
exit $LASTEXITCODE
